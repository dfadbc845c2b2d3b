// y[t] = sum over k of weight[t, k] * w_down (silu(w_gate x) * (w_up x)) of expert chosen[t, k], by increasing expert.
//
// Two passes, each over panels of columns that threads take one after the other: all hidden rows, then y. y does not depend
// on the number of threads, and if `few` is at least the rows of every expert, a token's row does not depend on the other
// tokens of the call.

#pragma once

#include "experts/routing.h"
#include "experts/unit_rows.h"

namespace experts {

constexpr int GATED = COLUMNS / 2;  // columns of w_gate and as many of w_up make a panel

// Columns first .. of an expert's w_gate and w_up; the last one is repeated beyond the end.
template <typename T>
Columns<T> gated_columns(const Call &call, int64_t expert, int64_t first) {
    Columns<T> columns;
    for (int64_t c = 0; c < GATED; ++c) {
        const int64_t row = expert * call.f + (first + c < call.f ? first + c : call.f - 1);
        columns.begin[c] = static_cast<const T *>(call.gate) + row * call.d;
        columns.begin[GATED + c] = static_cast<const T *>(call.up) + row * call.d;
    }
    return columns;
}

template <typename T>
Columns<T> down_columns(const Call &call, int64_t expert, int64_t first) {
    Columns<T> columns;
    for (int64_t c = 0; c < COLUMNS; ++c) {
        const int64_t row = expert * call.d + (first + c < call.d ? first + c : call.d - 1);
        columns.begin[c] = static_cast<const T *>(call.down) + row * call.f;
    }
    return columns;
}

template <typename T>
void hidden_panel(const Call &call, const Routing &routing, const UnitRows<T> &x_units, int64_t expert, int64_t first,
                  const Columns<T> &next, uint32_t *panel, T *hidden) {
    const int64_t n = routing.rows(expert), start = routing.start[expert], d = call.d, f = call.f;
    const int64_t count = f - first < GATED ? f - first : GATED;
    const T *x = static_cast<const T *>(call.x);
    T *kept = static_cast<T *>(call.gate_up);
    const auto row = [&](int64_t r) { return x + routing.token[start + r] * d; };
    const auto unit_row = [&](int64_t r) { return x_units(routing.token[start + r]); };
    const auto sink = [&](int64_t r, const float *out) {
        T *h = hidden + (start + r) * f + first;
        for (int v = 0; v < VECTORS / 2; ++v) {
            const Floats gate = load(out + v * LANES), up = load(out + GATED + v * LANES);
            store_at(h, v, count, silu(gate) * up);
            if (!kept) continue;
            store_at(kept + (start + r) * 2 * f + first, v, count, gate);
            store_at(kept + (start + r) * 2 * f + f + first, v, count, up);
        }
    };
    with_columns(n, row, unit_row, d, gated_columns<T>(call, expert, first), next, n <= call.few, panel, sink);
}

template <typename T>
void output_panel(const Call &call, const Routing &routing, const UnitRows<T> &hidden_units, int64_t first,
                  uint32_t *panel, float *sums, const T *hidden) {
    const int64_t d = call.d, f = call.f, count = d - first < COLUMNS ? d - first : COLUMNS;
    std::memset(sums, 0, sizeof(float) * static_cast<size_t>(call.tokens * COLUMNS));
    Columns<T> next = down_columns<T>(call, routing.touched[0], first);
    for (int64_t i = 0; i < routing.n_touched; ++i) {
        const int64_t expert = routing.touched[i], n = routing.rows(expert), start = routing.start[expert];
        const Columns<T> columns = next;
        next = i + 1 < routing.n_touched
            ? down_columns<T>(call, routing.touched[i + 1], first)
            : down_columns<T>(call, routing.touched[0], first + COLUMNS);
        const auto row = [&](int64_t r) { return hidden + (start + r) * f; };
        const auto unit_row = [&](int64_t r) { return hidden_units(start + r); };
        with_columns(n, row, unit_row, f, columns, next, n <= call.few, panel, [&](int64_t r, const float *out) {
            float *to = sums + routing.token[start + r] * COLUMNS;
            const float weight = routing.weight[start + r];
            for (int v = 0; v < VECTORS; ++v)
                store(to + v * LANES, load(to + v * LANES) + weight * load(out + v * LANES));
        });
    }
    T *y = static_cast<T *>(call.y) + first;
    for (int64_t t = 0; t < call.tokens; ++t)
        for (int v = 0; v < VECTORS; ++v) store_at(y + t * d, v, count, load(sums + t * COLUMNS + v * LANES));
}

// 0, or 1 where an expert's number is out of range, or 2 without memory.
template <typename T>
int forward(const Call &call) {
    Routing routing(call);
    if (const int error = routing.sort(call)) return error;
    const int64_t panel = aligned(panel_bytes<T>(call.d > call.f ? call.d : call.f) + LANES * COLUMNS * 4);
    const int64_t own = panel + aligned(call.tokens * COLUMNS * 4);
    const Memory hidden(call.pairs() * call.f * static_cast<int64_t>(sizeof(T))), scratch(call.threads * own);
    const bool is_packed = routing.most > call.few;  // some expert's columns
    const UnitRows<T> x_units(static_cast<const T *>(call.x), is_packed ? call.tokens : 0, call.d);
    const UnitRows<T> hidden_units(hidden.at<T>(0), is_packed ? call.pairs() : 0, call.f);
    if (!hidden.data || !scratch.data || !x_units.has_memory() || !hidden_units.has_memory()) return 2;
    in_large_pages(call.gate_up, call.pairs() * 2 * call.f * static_cast<int64_t>(sizeof(T)));
    const int64_t gated_panels = (call.f + GATED - 1) / GATED, y_panels = (call.d + COLUMNS - 1) / COLUMNS;
    const int64_t n_panels = routing.n_touched * gated_panels;
    const int threads = static_cast<int>(call.threads);
#pragma omp parallel num_threads(threads)
    {
        const int64_t base = own * thread_number();
        x_units.widen_all();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n_panels; ++i) {
            const int64_t next = i + threads < n_panels ? i + threads : i;
            hidden_panel<T>(call, routing, x_units, routing.touched[i / gated_panels], i % gated_panels * GATED,
                            gated_columns<T>(call, routing.touched[next / gated_panels], next % gated_panels * GATED),
                            scratch.at<uint32_t>(base), hidden.at<T>(0));
        }
        hidden_units.widen_all();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < y_panels; ++i)
            output_panel<T>(call, routing, hidden_units, i * COLUMNS, scratch.at<uint32_t>(base),
                            scratch.at<float>(base + panel), hidden.at<T>(0));
    }
    return 0;
}

}  // namespace experts
