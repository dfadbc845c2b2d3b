// grad_weight = grad_y^T x: panels are columns of grad_y, and what multiplies them is x^T, packed once.
//
// A panel gives COLUMNS rows of the gradient, transposed; they are transposed back when written.

#pragma once

#include "linear_rows.h"

namespace linear {

constexpr int64_t STRIP = 48;  // whole tiles and whole vectors of inputs
static_assert(STRIP % ROWS == 0 && STRIP % LANES == 0 && LEFT_COLUMNS % STRIP == 0, "strips do not cut tiles or vectors");

// sums [inputs first .. last][COLUMNS] = x^T grad_y of one panel. `left` is x^T as rows of tiles.
template <typename T>
void weight_panel(const Call &call, int64_t column, int64_t first, int64_t last, const uint32_t *left, uint32_t *panel,
                  float *sums) {
    const T *grad_y = static_cast<const T *>(call.grad_y) + column;
    const int64_t width = least(call.outputs - column, COLUMNS), of_tile = units<T>(call.rows) * ROWS;
    for (int64_t at = 0; at < call.rows; at += BLOCK<T>) {
        const int64_t count = least(call.rows - at, BLOCK<T>);
        const auto row_of = [&](int64_t i) { return grad_y + (at + i) * call.outputs; };
        pack_rows(grad_y, row_of, count, width, panel);
        const auto row = [&](int64_t r) {
            const int64_t input = first + r;
            return left + input / ROWS * of_tile + at / PER_UNIT<T> * ROWS + input % ROWS;
        };
        const bool is_last = at + count == call.rows;
        const auto next = [&](int64_t i) { return is_last ? grad_y + i * call.outputs + COLUMNS : row_of(BLOCK<T> + i); };
        const auto ahead = fetching(next, least(is_last ? call.rows : call.rows - at - count, BLOCK<T>),
                                    COLUMNS * static_cast<int64_t>(sizeof(T)));
        with_packed<T>(last - first, row, units<T>(count), panel, ahead, [&](int64_t r, const float *out) {
            float *sum = sums + r * COLUMNS;
            for (int v = 0; v < VECTORS; ++v) {
                Floats values = load(out + v * LANES);
                if (at) values += load(sum + v * LANES);
                store(sum + v * LANES, values);
            }
        });
    }
}

// Rows column .. of the gradient, of which there are `inputs`, from the sums of their panel.
template <typename To>
void write_turned(const Call &call, int64_t column, int64_t first, int64_t last, const float *sums, To *to) {
    for (int64_t i = first; i < last; i += LANES, sums += LANES * COLUMNS)
        for (int64_t c = 0; c < COLUMNS && column + c < call.outputs; c += LANES) {
            Words block[LANES];
            for (int l = 0; l < LANES; ++l) std::memcpy(&block[l], sums + l * COLUMNS + c, sizeof block[l]);
            transpose(block);
            const int64_t outputs = least(call.outputs - column - c, LANES), count = least(last - i, LANES);
            for (int64_t l = 0; l < outputs; ++l) {
                To *row = to + (column + c + l) * call.inputs + i;
                Floats values = bits<Floats>(block[l]);
                if (call.adds) values += load(row, count);
                store(row, values, count);
            }
        }
}

// 0, or 2 without memory.
template <typename T>
int grad_weight(const Call &call) {
    const int64_t panels = parts_of(call.outputs, COLUMNS), strips = parts_of(call.inputs, STRIP);
    const int64_t of_part = parts_of(strips, least(strips, parts_of(call.threads, panels)));
    const int64_t parts = parts_of(strips, of_part), height = of_part * STRIP;
    const int64_t panel = aligned(panel_bytes<T>(least(call.rows, BLOCK<T>))), own = panel + height * COLUMNS * 4;
    const int64_t of_strip = units<T>(call.rows) * STRIP;
    const Memory left(strips * of_strip * 4), scratch(call.threads * own);
    if (!left.data || !scratch.data) return 2;
    const T *x = static_cast<const T *>(call.x);
#pragma omp parallel num_threads(static_cast<int>(call.threads))
    {
        const int64_t base = own * scratch::thread_number();
        float *sums = scratch.at<float>(base + panel);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < call.inputs; first += LEFT_COLUMNS)
            pack_left(x, [&](int64_t i) { return x + i * call.inputs; }, call.rows, first,
                      least(call.inputs - first, LEFT_COLUMNS), left.at<uint32_t>(0) + first / STRIP * of_strip);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < panels * parts; ++task) {
            const int64_t column = task / parts * COLUMNS, first = task % parts * height;
            const int64_t last = least(first + height, call.inputs);
            weight_panel<T>(call, column, first, last, left.at<uint32_t>(0), scratch.at<uint32_t>(base), sums);
            if (call.is_wide) write_turned(call, column, first, last, sums, static_cast<float *>(call.grad_weight));
            else write_turned(call, column, first, last, sums, static_cast<T *>(call.grad_weight));
        }
    }
    return 0;
}

}  // namespace linear
