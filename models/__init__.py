"""Small networks of our own, trained on scikit-learn's handwritten digits; not part of the installed package."""
