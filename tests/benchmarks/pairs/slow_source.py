"""C++ that takes a compiler long, and hardly any memory."""


def slow_source(sums: int, name: str = "sum", *, terms: int = 1_000_000) -> str:
    """A source that exports one function. The compiler itself does `sums` sums: of a million terms it takes seconds each."""
    return f"""
constexpr unsigned long spin(unsigned long x) {{
    for (long i = 0; i < {terms // 1000}; i++)
        for (long j = 0; j < 1000; j++) x = x * 3 + j;
    return x;
}}
template <long N> struct Sum {{ static constexpr unsigned long value = spin(N) + Sum<N - 1>::value; }};
template <> struct Sum<0> {{ static constexpr unsigned long value = 0; }};
extern "C" __attribute__((visibility("default"))) long {name}() {{ return Sum<{sums}>::value; }}
"""
