"""A verification in words and tables: what is proven, what was run, and how near the bounds are."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ptqc.report.summary import printable, short_name
from ptqc.report.text import plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from ptqc.verify.certificate import Certificate
    from ptqc.verify.compare import Comparison
    from ptqc.verify.kernels import KernelTest
    from ptqc.verify.proof import StaticReport

VERDICTS = {
    "proven": ("proven", "green"),
    "differs": ("DIFFERS: there is a counterexample", "red"),
    "unprovable": ("NOT PROVEN", "red"),
}


def verdict_panel(certificate: "Certificate", deviations: Sequence[str] = (), again: bool = False) -> Any:
    """What came out, in the fewest words."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    words, style = VERDICTS[certificate.verdict]
    if certificate.verdict == "proven" and certificate.static.obstacles:
        words, style = f"proven but for {counted(len(certificate.static.obstacles), 'node')} in float", "yellow"
    if again:
        stands = not deviations and certificate.verdict == "proven"
        words, style = ("the certificate stands", "green") if stands else ("THE CERTIFICATE DOES NOT STAND", "red")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("verdict", Text(words, style))
    for label, sentence in verification_rows(certificate):
        grid.add_row(label, sentence)
    title = ", ".join(printable(name) for name in certificate.files)
    return Panel(grid, title=f"ptqc verify: {title}", title_align="left")


def verification_rows(certificate: "Certificate") -> list[tuple[str, str]]:
    """Label and sentence: what the numbers mean, which engines, how many inputs."""
    rows = [("arithmetic", _arithmetic(certificate))]
    if certificate.scales and certificate.static.holds:
        rows.append(("scales", _scales(certificate)))
    comparison = certificate.comparison
    if comparison is not None:
        inputs = sum(result.inputs for result in comparison.kinds)
        sampled = sum(result.interpreted for result in comparison.kinds)
        kinds = ", ".join(f"{result.inputs:,} {result.kind}" for result in comparison.kinds)
        rows.append(("inputs", f"{inputs:,} ({kinds}), {sampled:,} of them in the interpreter"))
        rows.append(("bits", difference_text(certificate)))
    if certificate.kernels:
        codes = sum(test.outputs for test in certificate.kernels)
        ties = sum(test.ties for test in certificate.kernels)
        count = len(certificate.kernels)
        rows.append(("kernels", f"{count} by themselves: {codes:,} codes, {ties:,} of them at constructed ties"))
    if certificate.cpu:
        rows.append(("cpu", printable(certificate.cpu, 120)))
    return rows


def difference_text(certificate: "Certificate") -> str:
    """How many engines gave other bits: ``0 of 8 engines differ``."""
    results = certificate.comparison.engines if certificate.comparison else ()
    differing = sum(result.difference is not None for result in results)
    refused = sum(bool(result.refused) for result in results)
    return f"{differing} of {len(results)} engines differ" + (f", {refused} did not run" if refused else "")


def proof_table(certificate: "Certificate") -> "Table":
    """Each claim, how many nodes it is about, and for how many it holds."""
    static = certificate.static
    table = plain_table("Proofs", ("claim", False), ("proven", True), ("", False))
    obstacles = [obstacle for obstacle in static.obstacles if not obstacle.allowed]
    islands = len(static.obstacles) - len(obstacles)
    state = "no" if obstacles else "yes"
    table.add_row("no float between the doors", state, f"but for {counted(islands, 'allowed node')}" if islands else "")
    table.add_row(
        "divisions", str(len(static.divisions)), "by a bounded positive number each" if static.divisions else ""
    )
    overflows = sum(not finding.holds for finding in static.findings)
    table.add_row(
        "no overflow for any input", _share(len(static.findings) - overflows, len(static.findings)), tightest(static)
    )
    claims = Counter(proof.claim for proof in (*static.proofs, *certificate.fused))
    held = Counter(proof.claim for proof in (*static.proofs, *certificate.fused) if proof.holds)
    for claim, count in claims.items():
        table.add_row(printable(claim, 80), _share(held[claim], count), "")
    if static.unfused:
        exact = sum(proof.holds for proof in static.unfused)
        table.add_row("exact where nothing is fused, too", _share(exact, len(static.unfused)), "for information")
    if certificate.static_portable is not None:
        findings = certificate.static_portable.findings
        safe = sum(finding.holds for finding in findings)
        table.add_row(
            "no overflow in the portable form", _share(safe, len(findings)), tightest(certificate.static_portable)
        )
    return table


def tightest(static: "StaticReport") -> str:
    """The accumulator that comes nearest to the limit of its type."""
    sums = [finding for finding in static.findings if finding.quantity == "sum of products"]
    if not sums:
        return ""
    found = max(sums, key=lambda finding: max(abs(finding.low), abs(finding.high)))
    bits = max(abs(found.low), abs(found.high)).bit_length() + 1
    return f"the widest sum has {bits} bits: {short_name(found.node)}"


def engine_table(comparison: "Comparison") -> "Table":
    """Engines, their versions, inputs compared, and what came of it."""
    headings = (("engine", False), ("version", False), ("form", False), ("inputs", True), ("", False))
    table = plain_table("Engines", *headings)
    for result in comparison.engines:
        state = "differs" if result.difference else "did not run" if result.refused else "the same bits"
        table.add_row(result.engine, printable(result.version), result.form, f"{sum(result.inputs.values()):,}", state)
    return table


def bounds_table(static: "StaticReport") -> "Table":
    """The bounds of every quantity, the widest of each kind and node."""
    headings = (("node", False), ("quantity", False), ("least", True), ("greatest", True), ("must fit", False))
    table = plain_table("Bounds", *headings)
    for found in static.findings:
        shown = f"{found.type}" if found.holds else f"{found.type}: DOES NOT"
        cells = (printable(found.quantity), f"{found.low:,}", f"{found.high:,}", printable(shown))
        table.add_row(short_name(found.node), *cells)
    return table


def kernel_table(kernels: "Sequence[KernelTest]") -> "Table":
    """Each kernel by itself."""
    table = plain_table("Kernels by themselves", ("node", False), ("codes", True), ("at ties", True), ("differ", True))
    for test in kernels:
        state = "did not run" if test.refused else f"{test.differ:,}"
        table.add_row(short_name(test.node), f"{test.outputs:,}", f"{test.ties:,}", state)
    return table


def _arithmetic(certificate: "Certificate") -> str:
    static = certificate.static
    obstacles = [obstacle for obstacle in static.obstacles if not obstacle.allowed]
    if obstacles:
        return f"{counted(len(obstacles), 'node')} without integer meaning: float, or no known operator"
    divisions = f", {counted(len(static.divisions), 'division')}" if static.divisions else ", no division"
    islands = f"; {counted(len(static.obstacles), 'node')} allowed in float" if static.obstacles else ""
    return f"integers from entry to exit{divisions}{islands}"


def _scales(certificate: "Certificate") -> str:
    if certificate.scales == "power-of-two":
        return "powers of two: exact on any engine, fused or not"
    versions = {f"onnxruntime {result.version}" for result in _engines(certificate) if "onnxruntime" in result.engine}
    named = min(versions, default="onnxruntime")
    return f"free: exact where the engine fuses as {named} does; the portable form is exact on every one"


def _engines(certificate: "Certificate") -> Sequence[Any]:
    return certificate.comparison.engines if certificate.comparison else ()


def counted(count: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"
