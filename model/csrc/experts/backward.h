// The gradients of `forward`: of x, of the pairs' weights and of the three stacks, each written once and whole.
//
// The hidden rows are computed again from the activation's inputs. Sums are fp32 and in the same order for any number
// of threads; the gradients of gate and up are rounded to the call's format once, as products of them need it.

#pragma once

#include <initializer_list>

#include "experts/routing.h"
#include "experts/unit_rows.h"

namespace experts {

// The activation's part of a panel of hidden columns: from grad_y w_down to the gradients of gate and up, [N, 2 F], and
// of each pair's weight, summed over the panel; and, where it is wanted, weight * hidden [N, F].
template <typename T>
void activation_panel(const Call &call, const Routing &routing, const UnitRows<T> &grad_y, int64_t expert,
                      int64_t first, const T *next, uint32_t *panel, T *grad_gate_up, T *weighted_hidden, float *of_weight) {
    const int64_t n = routing.rows(expert), start = routing.start[expert], d = call.d, f = call.f;
    const int64_t count = f - first < COLUMNS ? f - first : COLUMNS;
    const T *down = static_cast<const T *>(call.down) + expert * d * f + first;
    pack_rows(down, [&](int64_t i) { return down + i * f; }, d, count, panel);
    const T *kept = static_cast<const T *>(call.gate_up);
    const auto row = [&](int64_t r) { return grad_y(routing.token[start + r]); };
    const auto ahead = fetching([&](int64_t i) { return next + i * f; }, d, count * static_cast<int64_t>(sizeof(T)));
    with_panel<Unit<T>>(n, row, d, panel, ahead, [&](int64_t r, const float *out) {
        const int64_t at = (start + r) * 2 * f + first;
        const float weight = routing.weight[start + r];
        for (const int64_t half : {at, at + f}) {  // what the forward pass kept has left the caches
            fetch(kept + half + SINK_AHEAD * 2 * f, count);
            fetch(grad_gate_up + half + SINK_AHEAD * 2 * f, count);
        }
        Floats products = zeros();
        for (int v = 0; v < VECTORS; ++v) {
            const Floats gate = load_at(kept + at, v, count), up = load_at(kept + at + f, v, count);
            const Floats grad_h = load(out + v * LANES), s = sigmoid(gate), activated = gate * s;
            const Floats hidden = activated * up;
            products += grad_h * hidden;
            if (weighted_hidden) store_at(weighted_hidden + (start + r) * f + first, v, count, weight * hidden);
            const Floats weighted = weight * grad_h;
            store_at(grad_gate_up + at, v, count, weighted * up * (s + activated * (1.0f - s)));
            store_at(grad_gate_up + at + f, v, count, weighted * activated);
        }
        of_weight[start + r] = sum(products);
    });
}

template <typename T>
void input_panel(const Call &call, const Routing &routing, const UnitRows<T> &grad_gate_up, int64_t first,
                 uint32_t *panel, float *sums) {
    const int64_t d = call.d, f = call.f, count = d - first < COLUMNS ? d - first : COLUMNS;
    std::memset(sums, 0, sizeof(float) * static_cast<size_t>(call.tokens * COLUMNS));
    for (int64_t i = 0; i < routing.n_touched; ++i) {
        const int64_t expert = routing.touched[i], n = routing.rows(expert), start = routing.start[expert];
        const T *gate = static_cast<const T *>(call.gate) + expert * f * d + first;
        const T *up = static_cast<const T *>(call.up) + expert * f * d + first;
        pack_rows(gate, [&](int64_t j) { return j < f ? gate + j * d : up + (j - f) * d; }, 2 * f, count, panel);
        const auto row = [&](int64_t r) { return grad_gate_up(start + r); };
        const int64_t distance = i + 1 < routing.n_touched ? (routing.touched[i + 1] - expert) * f * d : 0;
        const auto ahead = fetching([&](int64_t j) { return (j < f ? gate + j * d : up + (j - f) * d) + distance; },
                                    distance ? 2 * f : 0, count * static_cast<int64_t>(sizeof(T)));
        with_panel<Unit<T>>(n, row, 2 * f, panel, ahead, [&](int64_t r, const float *out) {
            float *to = sums + routing.token[start + r] * COLUMNS;
            for (int v = 0; v < VECTORS; ++v) store(to + v * LANES, load(to + v * LANES) + load(out + v * LANES));
        });
    }
    T *grad_x = static_cast<T *>(call.grad_x) + first;
    for (int64_t t = 0; t < call.tokens; ++t)
        for (int v = 0; v < VECTORS; ++v) store_at(grad_x + t * d, v, count, load(sums + t * COLUMNS + v * LANES));
}

// Rows first .. last of a matrix whose gradient is zero, since no token came to its expert.
template <typename T>
void clear(T *matrix, int64_t width, int64_t first, int64_t last) {
    if (first < last) std::memset(matrix + first * width, 0, sizeof(T) * static_cast<size_t>((last - first) * width));
}

// Rows first .. last of an expert's [F, D] gradients of gate (rows below F) and up (from F on): grad_gate_up^T x.
template <typename T>
void gated_gradients(const Call &call, const Routing &routing, int64_t expert, int64_t first, int64_t last,
                     uint32_t *left, uint32_t *panel, const T *grad_gate_up) {
    const int64_t n = routing.rows(expert), start = routing.start[expert], d = call.d, f = call.f;
    T *gate = static_cast<T *>(call.grad_gate) + expert * f * d, *up = static_cast<T *>(call.grad_up) + expert * f * d;
    if (!n) {
        clear(gate, d, first, last < f ? last : f);
        return clear(up, d, first > f ? first - f : 0, last - f);
    }
    const T *x = static_cast<const T *>(call.x), *grads = grad_gate_up + start * 2 * f;
    pack_left(grads, [&](int64_t i) { return grads + i * 2 * f; }, n, first, last - first, left);
    const int64_t n_units = units<T>(n);
    for (int64_t column = 0; column < d; column += COLUMNS) {
        const int64_t count = d - column < COLUMNS ? d - column : COLUMNS;
        pack_rows(x, [&](int64_t i) { return x + routing.token[start + i] * d + column; }, n, count, panel);
        const auto row = [&](int64_t r) { return left + r / ROWS * n_units * ROWS + r % ROWS; };
        with_packed<T>(last - first, row, n_units, panel, fetching_nothing(), [&](int64_t r, const float *out) {
            const int64_t m = first + r;
            T *to = (m < f ? gate + m * d : up + (m - f) * d) + column;
            for (int v = 0; v < VECTORS; ++v) store_at(to, v, count, load(out + v * LANES));
        });
    }
}

// Rows first .. last of an expert's [D, F] gradient of down: grad_y^T (weight * hidden).
template <typename T>
void down_gradients(const Call &call, const Routing &routing, int64_t expert, int64_t first, int64_t last,
                    uint32_t *left, uint32_t *panel, const T *weighted_hidden) {
    const int64_t n = routing.rows(expert), start = routing.start[expert], d = call.d, f = call.f;
    T *down = static_cast<T *>(call.grad_down) + expert * d * f;
    if (!n) return clear(down, f, first, last);
    const T *grad_y = static_cast<const T *>(call.grad_y), *hidden = weighted_hidden + start * f;
    pack_left(grad_y, [&](int64_t i) { return grad_y + routing.token[start + i] * d; }, n, first, last - first, left);
    const int64_t n_units = units<T>(n);
    for (int64_t column = 0; column < f; column += COLUMNS) {
        const int64_t count = f - column < COLUMNS ? f - column : COLUMNS;
        pack_rows(hidden, [&](int64_t i) { return hidden + i * f + column; }, n, count, panel);
        const auto row = [&](int64_t r) { return left + r / ROWS * n_units * ROWS + r % ROWS; };
        with_packed<T>(last - first, row, n_units, panel, fetching_nothing(), [&](int64_t r, const float *out) {
            T *to = down + (first + r) * f + column;
            for (int v = 0; v < VECTORS; ++v) store_at(to, v, count, load(out + v * LANES));
        });
    }
}

// Each pair's products summed over the panels of hidden columns, in their order.
inline void weight_gradients(const Call &call, const Routing &routing, const float *of_weight, int64_t panels) {
    for (int64_t p = 0; p < call.pairs(); ++p) {
        float whole = 0;
        for (int64_t i = 0; i < panels; ++i) whole += of_weight[i * call.pairs() + p];
        call.grad_weights[routing.pair[p]] = whole;
    }
}

// 0, or 1 where an expert's number is out of range, or 2 without memory.
template <typename T>
int backward(const Call &call) {
    Routing routing(call);
    if (const int error = routing.sort(call)) return error;
    const int64_t d = call.d, f = call.f, size = sizeof(T);
    const int64_t h_panels = (f + COLUMNS - 1) / COLUMNS, x_panels = (d + COLUMNS - 1) / COLUMNS;
    // Experts are cut into as many parts as keep all threads busy.
    const int64_t wanted = call.threads == 1 ? 1 : (4 * call.threads + call.experts - 1) / call.experts;
    const int64_t tall = 2 * f > d ? 2 * f : d, height = ((tall + wanted - 1) / wanted + ROWS - 1) / ROWS * ROWS;
    const int64_t gated_parts = (2 * f + height - 1) / height, down_parts = (d + height - 1) / height;
    const int64_t left = aligned(units<T>(routing.most) * height * 4), panel = aligned(panel_bytes<T>(
        d > 2 * f ? (d > routing.most ? d : routing.most) : 2 * f > routing.most ? 2 * f : routing.most));
    const int64_t own = panel + left + aligned(call.tokens * COLUMNS * 4);
    const Memory grads(call.pairs() * 2 * f * size), hidden(call.grad_down ? call.pairs() * f * size : 0);
    const Memory of_weight(h_panels * call.pairs() * 4), scratch(call.threads * own);
    const UnitRows<T> grad_y(static_cast<const T *>(call.grad_y), call.tokens, d);
    const UnitRows<T> gate_up_units(grads.at<T>(0), call.grad_x ? call.pairs() : 0, 2 * f);
    if (!grads.data || !hidden.data || !of_weight.data || !scratch.data) return 2;
    if (!grad_y.has_memory() || !gate_up_units.has_memory()) return 2;
    for (void *stack : {call.grad_gate, call.grad_up, call.grad_down})
        in_large_pages(stack, call.experts * d * f * size);
    T *const grad_gate_up = grads.at<T>(0), *const weighted_hidden = call.grad_down ? hidden.at<T>(0) : nullptr;
    const int64_t n_panels = routing.n_touched * h_panels;
    const int threads = static_cast<int>(call.threads);
#pragma omp parallel num_threads(threads)
    {
        const int64_t base = own * thread_number();
        uint32_t *own_panel = scratch.at<uint32_t>(base), *own_left = scratch.at<uint32_t>(base + panel);
        grad_y.widen_all();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n_panels; ++i) {
            const int64_t next = i + threads < n_panels ? i + threads : i, at = next % h_panels * COLUMNS;
            const T *down = static_cast<const T *>(call.down) + routing.touched[next / h_panels] * d * f + at;
            activation_panel<T>(call, routing, grad_y, routing.touched[i / h_panels], i % h_panels * COLUMNS, down,
                                own_panel, grad_gate_up, weighted_hidden, of_weight.at<float>(i % h_panels * call.pairs() * 4));
        }
        gate_up_units.widen_all();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < (call.grad_x ? x_panels : 0); ++i)
            input_panel<T>(call, routing, gate_up_units, i * COLUMNS, own_panel, scratch.at<float>(base + panel + left));
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < (call.grad_gate ? call.experts * gated_parts : 0); ++i) {
            const int64_t expert = i / gated_parts, first = i % gated_parts * height;
            const int64_t last = first + height < 2 * f ? first + height : 2 * f;
            gated_gradients<T>(call, routing, expert, first, last, own_left, own_panel, grad_gate_up);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < (call.grad_down ? call.experts * down_parts : 0); ++i) {
            const int64_t expert = i / down_parts, first = i % down_parts * height;
            const int64_t last = first + height < d ? first + height : d;
            down_gradients<T>(call, routing, expert, first, last, own_left, own_panel, weighted_hidden);
        }
    }
    if (call.grad_weights) weight_gradients(call, routing, of_weight.at<float>(0), h_panels);
    return 0;
}

}  // namespace experts
