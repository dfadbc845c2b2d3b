// Products of many rows with a panel of columns, a tile of rows at a time, while the next data is prefetched.
//
// Callers pass where each row begins, and receive its results.

#pragma once

#include "tiles.h"

namespace tiles {

// What the next panel will be packed from, `count` pieces of `bytes` bytes that begin at piece(i), fetched into the cache
// bit by bit while this one is multiplied.
template <typename Piece>
struct Ahead {
    Piece piece;
    int64_t count, bytes;
    int64_t fetched = 0;

    void fetch(int64_t pieces) {
        for (const int64_t end = fetched + pieces < count ? fetched + pieces : count; fetched < end; ++fetched)
            for (int64_t byte = 0; byte < bytes; byte += 64)
                __builtin_prefetch(reinterpret_cast<const char *>(piece(fetched)) + byte, 0, 2);
    }
};

template <typename Piece>
Ahead<Piece> fetching(Piece piece, int64_t count, int64_t bytes) {
    return {piece, count, bytes};
}

inline auto fetching_nothing() {
    return fetching([](int64_t) -> const void * { return nullptr; }, 0, 0);
}

// Calls multiply(how many rows, their beginnings, results) for each tile of n rows, and sink(row, its COLUMNS products) for
// each row; row r begins at row(r).
template <typename Row, typename Ahead, typename Multiply, typename Sink>
LANES_INLINE void for_tiles(int64_t n, Row row, Ahead ahead, Multiply multiply, Sink sink) {
    alignas(64) float out[ROWS * COLUMNS];
    const int64_t tiles = (n + ROWS - 1) / ROWS, share = (ahead.count + tiles - 1) / tiles;
    for (int64_t first = 0; first < n; first += ROWS) {
        const int height = static_cast<int>(n - first < ROWS ? n - first : ROWS);
        decltype(row(0)) rows[ROWS];
        for (int r = 0; r < height; ++r) rows[r] = row(first + r);
        ahead.fetch(share);
        multiply(height, rows, out);
        for (int r = 0; r < height; ++r) sink(first + r, out + r * COLUMNS);
    }
}

// Numbers between two rows of `as_units`: whole vectors.
constexpr int64_t wide_stride(int64_t k) { return (k + LANES - 1) / LANES * LANES; }

// Bytes that `as_units` needs for n rows of k numbers.
template <typename T>
constexpr int64_t wide_bytes(int64_t n, int64_t k) {
    return std::is_same_v<T, Unit<T>> ? 0 : n * wide_stride(k) * static_cast<int64_t>(sizeof(float));
}

// n rows of k numbers for `with_panel<Unit<T>>`: themselves, or where bf16 is widened copies in `wide`, which all panels
// share.
template <typename T, typename Row>
LANES_INLINE auto as_units(int64_t n, Row row, int64_t k, float *wide) {
    if constexpr (std::is_same_v<T, Unit<T>>) return row;
    else {
        const int64_t stride = wide_stride(k);
        for (int64_t r = 0; r < n; ++r) widen(row(r), k, wide + r * stride);
        return [=](int64_t r) -> const float * { return wide + r * stride; };
    }
}

// Of n rows of k numbers with columns that are packed.
template <typename T, typename Row, typename Ahead, typename Sink>
LANES_INLINE void with_panel(int64_t n, Row row, int64_t k, const uint32_t *panel, Ahead ahead, Sink sink) {
    const auto multiply = [=](int height, const T *const *rows, float *out) { product_of(height, rows, k, panel, out); };
    for_tiles(n, row, ahead, multiply, sink);
}

// Of n rows that `pack_left` packed, of `n_units` units, which begin at row(r).
template <typename T, typename Row, typename Ahead, typename Sink>
LANES_INLINE void with_packed(int64_t n, Row row, int64_t n_units, const uint32_t *panel, Ahead ahead, Sink sink) {
    const auto begin = [=](int64_t r) { return packed_row<T>(row(r)); };
    const auto multiply = [=](int height, const Unit<T> *const *rows, float *out) {
        product_of_packed<T>(height, rows, n_units, panel, out);
    };
    for_tiles(n, begin, ahead, multiply, sink);
}

// COLUMNS columns of k numbers each, by their beginnings.
template <typename T>
struct Columns {
    const T *begin[COLUMNS];
};

// As `with_panel` for columns that are contiguous in memory: packed into `panel` if the rows are many, else read in place.
// Row r begins at row(r), its units at unit_row(r). `next` are the columns that are needed after these.
template <typename T, typename Row, typename UnitRow, typename Sink>
void with_columns(int64_t n, Row row, UnitRow unit_row, int64_t k, const Columns<T> &columns, const Columns<T> &next,
                  bool is_few, uint32_t *panel, Sink sink) {
    if (!is_few) {
        pack_columns(columns.begin, k, panel);
        const auto ahead = fetching([&](int64_t c) { return next.begin[c]; }, COLUMNS, k * static_cast<int64_t>(sizeof(T)));
        return with_panel<Unit<T>>(n, unit_row, k, panel, ahead, sink);
    }
    alignas(64) float out[DOT_ROWS * COLUMNS];
    for (int64_t first = 0; first < n; first += DOT_ROWS) {
        const int height = static_cast<int>(n - first < DOT_ROWS ? n - first : DOT_ROWS);
        const T *rows[DOT_ROWS];
        for (int r = 0; r < height; ++r) rows[r] = row(first + r);
        dot_tile(height, rows, columns.begin, next.begin, k, out);
        for (int r = 0; r < height; ++r) sink(first + r, out + r * COLUMNS);
    }
}

}  // namespace tiles
