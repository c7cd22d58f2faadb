"""The article this project answers, claim by claim: what it says, what was measured here, and whether it can hold.

Its setting: H100, PyTorch 2.3, an MLP of 4096-4096-4096 with GELU, batch 1, 10,000 iterations.
"""

from dataclasses import dataclass

from .results import Results, Row, select
from .workloads import DTYPE_NAMES, Case

BEFORE_US, AFTER_US = 12.4, 8.1
ARTICLE_RATIO = BEFORE_US / AFTER_US
GPUS, GPUS_AFTER, PRICE, TOKENS_A_DAY = 128, 83, 12_000.0, 1e9
OPEN = "not measured yet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One line of the table. ``verdict`` begins with "holds", "holds only", "cannot hold", "does not hold" or is
    OPEN; ``arithmetic`` says why in numbers."""

    claim: str
    article: str
    measured: str
    verdict: str
    arithmetic: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The article's MLP in one data type and cache state, as measured: the rows that speak of it."""

    dtype: str
    cache: str
    weight_bytes: int
    eager: Row | None
    graph: Row | None
    compiled: Row | None
    ours: Row | None
    xla: Row | None
    ours_jax: Row | None

    @property
    def name(self) -> str:
        return f"{DTYPE_NAMES[self.dtype]}, {self.cache}"

    @property
    def stream_us(self) -> float | None:
        return self.ours.get("stream_us") if self.ours else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost table redone. ``ratio``: how much faster the MLP got; ``share``: its part of the time before."""

    gpus: int
    price: float
    tokens_a_day: float
    ratio: float
    share: float

    @property
    def model_ratio(self) -> float:
        """Amdahl: the model's speed-up."""
        return 1 / (1 - self.share + self.share / self.ratio)

    @property
    def gpus_after(self) -> int:
        return -int(-self.gpus / self.model_ratio // 1)

    @property
    def month_before(self) -> float:
        return self.gpus * self.price

    @property
    def month_after(self) -> float:
        return self.gpus_after * self.price

    @property
    def tokens_a_second(self) -> float:
        """What each GPU must serve before."""
        return self.tokens_a_day / 86_400 / self.gpus


def settings(results: Results | None) -> list[Setting]:
    """bf16 and fp32, cold and hot."""
    rows = results.rows if results else []
    found = []
    for dtype in ("bfloat16", "float32"):
        for cache in ("cold", "hot"):
            place = {
                "workload": "article",
                "m": 1,
                "dtype": dtype,
                "mode": "forward",
                "cache": cache,
                "correct": True,
            }
            here = list(select(rows, **place))

            def pick(contender: str, plan: str = "", here: list[Row] = here) -> Row | None:
                return next(iter(select(here, contender=contender, plan=plan)), None)

            found.append(
                Setting(
                    dtype=dtype,
                    cache=cache,
                    weight_bytes=Case(workload="article", m=1, dtype=dtype).weight_bytes,
                    eager=pick("torch.eager"),
                    graph=pick("torch.eager_graph"),
                    compiled=pick("torch.compile"),
                    ours=pick("torchfused", "auto"),
                    xla=pick("xla"),
                    ours_jax=pick("jaxfused", "auto"),
                )
            )
    return found


def table(results: Results | None) -> list[Claim]:
    """The article's own table, row by row."""
    found = settings(results)
    main = found[0]
    return [_launches(main), *_bytes(main), _latency(found, results), _throughput(main), _power(main)]


def others(results: Results | None) -> list[Claim]:
    """What else the article says."""
    main = settings(results)[0]
    return [*_overhead(main), _gain(main), _fleet(results)]


def measured_ratio(results: Results | None) -> float | None:
    """How much faster our MLP is than graphed eager torch, bf16, cold: what a served model would gain on its MLPs."""
    main = settings(results)[0]
    return _us(main.graph) / _us(main.ours) if main.graph and main.ours else None


def measured_share(results: Results | None) -> float | None:
    """The MLP's part of a Llama-3 8B block, one sequence, 2,048 tokens of context."""
    shares = results.shares if results else []
    return next((s["share"] for s in shares if s["m"] == 1 and s["context"] == 2048), None)


def _launches(s: Setting) -> Claim:
    if not (s.eager and s.ours and s.ours["launches"]):
        measured, verdict = OPEN, OPEN
    else:
        before, after = s.eager["launches"], s.ours["launches"]
        measured = f"{before:g} -> {after:g}"
        verdict = "holds" if before == 3 else f"holds, from {before:g}"
        if after > 1:
            verdict = f"does not hold: {after:g} launches"
    why = (
        "two GEMMs, the activation, and what the library launches besides: at one row it splits K and adds up. "
        "Counted from the profiler's trace."
    )
    return Claim(
        claim="kernel launches a forward pass",
        article="3 -> 1",
        measured=measured,
        verdict=verdict,
        arithmetic=why,
    )


def _bytes(s: Setting) -> list[Claim]:
    weights16, weights32 = 2 * 4096 * 4096 * 2, 2 * 4096 * 4096 * 4
    vector = 4096 * 4
    claims = []
    for name, kind, article in (("reads", "read", (98_304, 32_768)), ("writes", "write", (65_536, 16_384))):
        measured = OPEN
        if s.eager and s.ours and s.eager["hbm_bytes"] and s.ours["hbm_bytes"]:
            before, after = s.eager["hbm_bytes"][kind], s.ours["hbm_bytes"][kind]
            measured = f"{before:,.0f} -> {after:,.0f} bytes (bf16, {s.ours['hbm_bytes']['method']})"
        vectors = (
            f"{article[0]:,} = {article[0] // vector} and {article[1]:,} = {article[1] // vector} fp32 vectors of 4096"
        )
        if kind == "read":
            verdict = "cannot hold: these are activations only"
            why = (
                f"{vectors}, so no weight is among them. A batch-1 MLP reads its weights: {weights16:,} bytes in bf16, "
                f"{weights32:,} in fp32, {weights32 // article[0]:,} times the article's figure. What fusion saves is "
                f"{100 * (article[0] - article[1]) / weights32:.2f} % of the reads."
            )
        else:
            verdict = "holds for activations in device memory, and is too small to matter"
            saved = article[0] - article[1]
            why = f"{vectors}. {saved:,} bytes saved are {saved / 4.3e6:.3f} us at 4.3 TB/s."
        claims.append(
            Claim(
                claim=f"global memory {name}",
                article=f"{article[0]:,} -> {article[1]:,} bytes",
                measured=measured,
                verdict=verdict,
                arithmetic=why,
            )
        )
    return claims


def _latency(found: list[Setting], results: Results | None) -> Claim:
    lines, reached = [], []
    for s in found:
        if s.eager and s.graph and s.ours:
            lines.append(f"{s.name}: {_wall(s.eager):.1f} eager, {_us(s.graph):.1f} graphed -> {_us(s.ours):.1f}")
            if _us(s.ours) <= AFTER_US:
                reached.append(s.name)
    l2 = results.environment.get("l2_bytes") if results else None
    why = "; ".join(
        f"{s.name}: {s.weight_bytes / 1e6:.0f} MB in {AFTER_US} us is {s.weight_bytes / AFTER_US / 1e6:.1f} TB/s"
        for s in found[::2]
    )
    stream = found[0].stream_us
    if stream:
        rate = found[0].weight_bytes / stream / 1e6
        why += f". One launch that only reads the bf16 weights takes {stream:.1f} us here ({rate:.2f} TB/s)"
    if l2:
        why += f"; L2 is {l2 / 1e6:.0f} MB, so the weights do not sit in it whole"
    if not lines:
        verdict = OPEN
    elif reached:
        verdict = f"holds only when {' or '.join(reached)}"
    else:
        verdict = "cannot hold: reading the weights alone takes longer"
        if stream and stream <= AFTER_US:
            verdict = "does not hold here"
    return Claim(
        claim="mean latency, us",
        article=f"{BEFORE_US} -> {AFTER_US} ({ARTICLE_RATIO:.2f}x)",
        measured="; ".join(lines) or OPEN,
        verdict=verdict,
        arithmetic=why + ".",
    )


def _throughput(s: Setting) -> Claim:
    measured, verdict = OPEN, OPEN
    if s.eager and s.ours:
        before, after = _wall(s.eager), _us(s.ours)
        measured = f"{1e6 / before:,.0f} -> {1e6 / after:,.0f} /s (eager -> ours graphed)"
        word = "holds" if before / after >= ARTICLE_RATIO else "does not hold"
        verdict = f"the ratio {word} ({before / after:.2f}x), the numbers do not"
        if after <= AFTER_US:
            verdict = "holds"
    return Claim(
        claim="throughput, /s",
        article="80,645 -> 123,456",
        measured=measured,
        verdict=verdict,
        arithmetic="1 / latency: the row above once more (1e6 / 12.4 and 1e6 / 8.1), no second measurement.",
    )


def _power(s: Setting) -> Claim:
    measured, verdict, why = OPEN, OPEN, "power is not energy: joules a call = power x time."
    if s.graph and s.ours and s.graph["power_w"] and s.ours["power_w"]:
        before, after = s.graph, s.ours
        measured = f"{before['power_w']:.0f} -> {after['power_w']:.0f} W, "
        measured += f"{1e3 * before['joules']:.2f} -> {1e3 * after['joules']:.2f} mJ a call"
        less = after["power_w"] < before["power_w"]
        saved = 100 * (1 - after["joules"] / before["joules"])
        verdict = "holds" if less else "does not hold: the memory is busier, so power rises"
        verdict += f"; energy a call {'falls' if saved > 0 else 'rises'} by {abs(saved):.0f} %"
    return Claim(claim="power", article="325 -> 310 W", measured=measured, verdict=verdict, arithmetic=why)


def _overhead(s: Setting) -> list[Claim]:
    each = share = less = OPEN
    words = [OPEN] * 3
    if s.eager and s.eager["launches"] and s.eager["cupti_us"] is not None and s.graph:
        exposed = max(0.0, _wall(s.eager) - s.eager["cupti_us"])
        one, part = exposed / s.eager["launches"], 100 * exposed / _wall(s.eager)
        gap = max(0.0, _us(s.graph) - s.eager["cupti_us"]) / s.eager["launches"]
        each = f"{one:.1f} us a launch in eager, {gap:.1f} in a CUDA graph"
        words[0] = (
            "holds for eager calls; not in a CUDA graph" if 5 <= one <= 15 else f"does not hold here: {one:.1f} us"
        )
        share = f"{part:.0f} % of an eager MLP call"
        words[1] = (
            "holds for eager calls; a CUDA graph takes it away without fusion" if part >= 30 else "does not hold here"
        )
        if s.ours and s.ours["cupti_us"] is not None and exposed:
            ours = max(0.0, _wall(s.ours) - s.ours["cupti_us"])
            less = (
                f"{exposed:.1f} -> {ours:.1f} us a call, launched one by one: {100 * (1 - ours / exposed):.0f} % less"
            )
            words[2] = "holds" if ours <= 0.4 * exposed else f"does not hold: {100 * (1 - ours / exposed):.0f} %"
    how = "(wall time of eager calls - kernel durations) / launches"
    over = "the same difference over the wall time"
    ours_over = "the same difference, ours against eager; 3 -> 1 launches alone would be 67 %"
    return [
        Claim(claim="launch overhead", article="5-15 us a launch", measured=each, verdict=words[0], arithmetic=how),
        Claim(
            claim="overhead at batch 1",
            article="35 % of decode time",
            measured=share,
            verdict=words[1],
            arithmetic=over,
        ),
        Claim(claim="less launch overhead", article="60 % less", measured=less, verdict=words[2], arithmetic=ours_over),
    ]


def _gain(s: Setting) -> Claim:
    measured, verdict = OPEN, OPEN
    if s.eager and s.graph and s.ours:
        eager, graph = _wall(s.eager) / _wall(s.ours), _us(s.graph) / _us(s.ours)
        measured = f"{100 * (eager - 1):+.0f} % call by call, {100 * (graph - 1):+.0f} % graph against graph"
        reached = [n for n, r in (("call by call", eager), ("graph against graph", graph)) if r >= 1.25]
        verdict = "holds" if len(reached) == 2 else f"holds only {reached[0]}" if reached else "does not hold here"
    why = "of the MLP alone; a model gains less, see the next line."
    return Claim(claim="throughput", article="+25-40 %", measured=measured, verdict=verdict, arithmetic=why)


def _fleet(results: Results | None) -> Claim:
    ratio, share = measured_ratio(results), measured_share(results)
    measured, verdict = OPEN, OPEN
    if ratio and share:
        cost = Cost(gpus=GPUS, price=PRICE, tokens_a_day=TOKENS_A_DAY, ratio=ratio, share=share)
        measured = (
            f"MLP {ratio:.2f}x, {100 * share:.0f} % of a block's time: model {cost.model_ratio:.2f}x, "
            f"{GPUS} -> {cost.gpus_after} GPUs, ${cost.month_before:,.0f} -> ${cost.month_after:,.0f}"
        )
        verdict = (
            "holds" if cost.gpus_after <= GPUS_AFTER else "cannot hold: a gain on the MLP is not a gain on the model"
        )
    why = (
        f"{GPUS} x 8.1 / 12.4 = {GPUS * AFTER_US / BEFORE_US:.1f}: the MLP's ratio was applied to the whole fleet, as "
        f"if the MLP were all of the time. Amdahl: GPUs = {GPUS} (1 - s + s / r). A billion tokens a day over {GPUS} "
        f"GPUs is {TOKENS_A_DAY / 86_400 / GPUS:.0f} tokens a second each; served in batches, decoding is not at "
        f"batch 1 at all."
    )
    article = f"{GPUS} -> {GPUS_AFTER} GPUs, $1,536,000 -> $996,000 a month"
    return Claim(
        claim="cost of a 70B model, 10^9 tokens a day",
        article=article,
        measured=measured,
        verdict=verdict,
        arithmetic=why,
    )


def _us(row: Row) -> float:
    return row["kernel_us"]["median"]


def _wall(row: Row) -> float:
    return row["wall_us"]["median"]
