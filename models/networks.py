"""The three architectures: each has the operators that quantizers find hard, at a size that fits in a repository."""

import torch
from torch import Tensor, nn

CLASSES = 10
SIDE = 16  # pixels


def conv_bn(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias and its BatchNorm, "same" padding."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(cin, cout, stride=stride), nn.ReLU(), conv_bn(cout, cout))
        same = cin == cout and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else conv_bn(cin, cout, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Residual CNN: 16, 32 and 64 channels, one block each."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(1, 16), nn.ReLU(), Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)
        )
        self.classifier = nn.Linear(64, CLASSES)

    def forward(self, image: Tensor) -> Tensor:  # [N, 1, 16, 16] -> [N, 10]
        x = nn.functional.adaptive_avg_pool2d(self.features(image), 1)
        return self.classifier(torch.flatten(x, 1))


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1), nn.ReLU(), nn.Conv2d(channels // 4, channels, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.pool(x))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-excite, project, as in MobileNetV3."""

    def __init__(self, cin: int, cout: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = cin * expansion
        self.body = nn.Sequential(
            conv_bn(cin, wide, kernel=1),
            nn.Hardswish(),
            conv_bn(wide, wide, kernel, stride, groups=wide),
            nn.Hardswish(),
            SqueezeExcite(wide),
            conv_bn(wide, cout, kernel=1),
        )
        self.residual = cin == cout and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """Depthwise-separable CNN with HardSwish and squeeze-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(1, 16),
            nn.Hardswish(),
            InvertedResidual(16, 16, 2, 3, 1),
            InvertedResidual(16, 24, 3, 3, 2),
            InvertedResidual(24, 24, 3, 5, 1),
            InvertedResidual(24, 40, 3, 5, 2),
            InvertedResidual(40, 40, 3, 3, 1),
            conv_bn(40, 128, kernel=1),
            nn.Hardswish(),
        )
        self.classifier = nn.Linear(128, CLASSES)

    def forward(self, image: Tensor) -> Tensor:  # [N, 1, 16, 16] -> [N, 10]
        return self.classifier(self.features(image).mean((2, 3)))


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens, width = x.shape[1:]
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]  # [N, heads, tokens, width / heads]
        weights = torch.softmax(query * self.scale @ key.transpose(-2, -1), dim=-1)
        return self.out((weights @ value).transpose(1, 2).reshape(-1, tokens, width))


class Block(nn.Module):
    """Attention and a GELU network, each behind a LayerNorm and around a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Pre-norm transformer over 16 patches of 4x4 pixels, mean of the tokens."""

    def __init__(self, width: int = 48, heads: int = 4, depth: int = 3, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (SIDE // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:  # [N, 1, 16, 16] -> [N, 10]
        x = self.patches(image).flatten(2).transpose(1, 2) + self.position
        return self.classifier(self.norm(self.blocks(x)).mean(1))
