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

// Calls sink(row, its COLUMNS products) for n rows with columns that are packed; row r begins at row(r).
template <typename T, typename Row, typename Ahead, typename Sink>
void with_panel(int64_t n, Row row, int64_t step, int64_t k, const uint32_t *panel, Ahead ahead, Sink sink) {
    alignas(64) float out[ROWS * COLUMNS];
    const int64_t tiles = (n + ROWS - 1) / ROWS, share = (ahead.count + tiles - 1) / tiles;
    for (int64_t first = 0; first < n; first += ROWS) {
        const int height = static_cast<int>(n - first < ROWS ? n - first : ROWS);
        const T *rows[ROWS];
        for (int r = 0; r < height; ++r) rows[r] = row(first + r);
        ahead.fetch(share);
        product_of<T>(height, rows, step, k, panel, out);
        for (int r = 0; r < height; ++r) sink(first + r, out + r * COLUMNS);
    }
}

// COLUMNS columns of k numbers each, by their beginnings.
template <typename T>
struct Columns {
    const T *begin[COLUMNS];
};

// As `with_panel` for columns that are contiguous in memory: packed into `panel` if the rows are many, else read in place.
// `next` are the columns that are needed after these.
template <typename T, typename Row, typename Sink>
void with_columns(int64_t n, Row row, int64_t k, const Columns<T> &columns, const Columns<T> &next, bool is_few,
                  uint32_t *panel, Sink sink) {
    if (!is_few) {
        pack_columns(columns.begin, k, panel);
        const auto ahead = fetching([&](int64_t c) { return next.begin[c]; }, COLUMNS, k * static_cast<int64_t>(sizeof(T)));
        return with_panel<T>(n, row, 1, k, panel, ahead, sink);
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
