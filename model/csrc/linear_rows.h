// y = x weight^T and grad_x = grad_y weight: rows times a matrix of which a panel of columns is packed at a time.
//
// Of the summed numbers a panel holds up to BLOCK; where there are more, sums wait in fp32. Where bf16 is widened, a block of
// rows is widened once for all panels. In what order numbers are summed depends on neither the other rows nor the number of
// threads.

#pragma once

#include "panels.h"
#include "scratch.h"

namespace linear {

using namespace tiles;
using scratch::aligned;
using scratch::Memory;

// Arrays are whole and in C order; what is not wanted is null.
struct Call {
    int64_t rows, outputs, inputs, threads;  // M, N, K
    const void *x;       // [M, K]
    const void *weight;  // [N, K]
    void *y;             // [M, N]
    const void *grad_y;  // [M, N]
    void *grad_x;        // [M, K]
    void *grad_weight;   // [N, K]
    int64_t is_wide;     // grad_weight is fp32 in any format
    int64_t adds;        // and is added to
};

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

constexpr int64_t PANEL_BYTES = 256 << 10;  // a part of the second cache
template <typename T>
constexpr int64_t BLOCK = PANEL_BYTES / (COLUMNS * 4) * PER_UNIT<T>;
constexpr int64_t PART = 1024;  // rows that share a packed panel

// The right factor [summed, columns]: weight^T, whose columns are contiguous in memory ...
template <typename T>
struct Transposed {
    const T *weight;
    int64_t summed, columns;

    void pack(int64_t at, int64_t count, int64_t column, uint32_t *panel) const {
        const T *begin[COLUMNS];
        for (int64_t c = 0; c < COLUMNS; ++c)  // the last one is repeated beyond the end
            begin[c] = weight + least(column + c, columns - 1) * summed + at;
        pack_columns(begin, count, panel);
    }
    auto ahead(int64_t at, int64_t count, int64_t column) const {
        return fetching([=, *this](int64_t c) { return weight + (column + c) * summed + at; },
                        least(columns - column, COLUMNS), count * static_cast<int64_t>(sizeof(T)));
    }
};

// ... or weight itself.
template <typename T>
struct Plain {
    const T *weight;
    int64_t summed, columns;

    void pack(int64_t at, int64_t count, int64_t column, uint32_t *panel) const {
        const T *first = weight + at * columns + column;
        pack_rows(first, [&](int64_t i) { return first + i * columns; }, count, least(columns - column, COLUMNS), panel);
    }
    auto ahead(int64_t at, int64_t count, int64_t column) const {
        return fetching([=, *this](int64_t i) { return weight + (at + i) * columns + column; }, count,
                        least(columns - column, COLUMNS) * static_cast<int64_t>(sizeof(T)));
    }
};

// Rows first .. first + height of to [M, columns] = left [M, summed] matrix, panels first_panel .. last_panel of its columns.
template <typename T, typename Matrix>
void multiply_part(const T *left, const Matrix &matrix, int64_t first, int64_t height, int64_t first_panel,
                   int64_t last_panel, uint32_t *panel, float *sums, float *wide, T *to) {
    const int64_t summed = matrix.summed;
    for (int64_t at = 0; at < summed; at += BLOCK<T>) {
        const int64_t count = least(summed - at, BLOCK<T>);
        const bool is_first = at == 0, is_last = at + count == summed;
        const auto row = as_units<T>(height, [&](int64_t r) { return left + (first + r) * summed + at; }, count, wide);
        for (int64_t p = first_panel; p < last_panel; ++p) {
            const int64_t column = p * COLUMNS, width = least(matrix.columns - column, COLUMNS);
            matrix.pack(at, count, column, panel);
            const bool is_block_done = p + 1 == last_panel;
            const int64_t next = !is_block_done ? at : is_last ? 0 : at + BLOCK<T>;
            const int64_t next_column = (is_block_done ? first_panel : p + 1) * COLUMNS;
            const auto ahead = matrix.ahead(next, least(summed - next, BLOCK<T>), next_column);
            float *own = sums + (p - first_panel) * PART * COLUMNS;
            with_panel<Unit<T>>(height, row, count, panel, ahead, [&](int64_t r, const float *out) {
                float *sum = own + r * COLUMNS;
                T *y = to + (first + r) * matrix.columns + column;
                for (int v = 0; v < VECTORS; ++v) {
                    Floats values = load(out + v * LANES);
                    if (!is_first) values += load(sum + v * LANES);
                    if (is_last) store_at(y, v, width, values);
                    else store(sum + v * LANES, values);
                }
            });
        }
    }
}

// to [M, columns] = left [M, summed] matrix. 0, or 2 without memory.
template <typename T, typename Matrix>
int multiply(const T *left, int64_t rows, const Matrix &matrix, int64_t threads, T *to) {
    const int64_t parts = parts_of(rows, PART), panels = parts_of(matrix.columns, COLUMNS);
    const int64_t groups = least(panels, parts_of(threads, parts)), of_group = parts_of(panels, groups);
    const int64_t block = least(matrix.summed, BLOCK<T>), panel = aligned(panel_bytes<T>(block) + LANES * COLUMNS * 4);
    const int64_t sums = matrix.summed > block ? aligned(PART * of_group * COLUMNS * 4) : 0;
    const int64_t wide = wide_bytes<T>(least(rows, PART), block), own = panel + sums + wide;
    const Memory scratch(threads * own);
    if (!scratch.data) return 2;
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(dynamic)
    for (int64_t task = 0; task < parts * groups; ++task) {
        const int64_t base = scratch::thread_number() * own, after_panel = base + panel;
        const int64_t first = task / groups * PART, first_panel = task % groups * of_group;
        multiply_part<T>(left, matrix, first, least(rows - first, PART), first_panel, least(first_panel + of_group, panels),
                         scratch.at<uint32_t>(base), scratch.at<float>(after_panel), scratch.at<float>(after_panel + sums), to);
    }
    return 0;
}

template <typename T>
int forward(const Call &call) {
    const Transposed<T> matrix{static_cast<const T *>(call.weight), call.inputs, call.outputs};
    return multiply(static_cast<const T *>(call.x), call.rows, matrix, call.threads, static_cast<T *>(call.y));
}

template <typename T>
int grad_input(const Call &call) {
    const Plain<T> matrix{static_cast<const T *>(call.weight), call.outputs, call.inputs};
    return multiply(static_cast<const T *>(call.grad_y), call.rows, matrix, call.threads, static_cast<T *>(call.grad_x));
}

}  // namespace linear
