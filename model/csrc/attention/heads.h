// Arguments of one call of attention, a head's rows, and their packing for products.
//
// A tile is ROWS queries; its scores with COLUMNS keys are one panel of [ROWS][COLUMNS] numbers. Which keys a query sees
// is a span that ends with itself, so a tile needs the panels from its first query's first key to its last query.

#pragma once

#include "panels.h"
#include "scratch.h"

namespace attention {

using namespace tiles;

// Sizes and arrays of one call. Arrays are whole and in C order; what is not wanted is null. S positions, H heads of
// queries, G of keys and values (H is a multiple of G), C and U their widths.
struct Call {
    int64_t batch, length, heads, groups, d_key, d_value, threads;
    double scale;          // of the scores
    const int32_t *first;  // [B, S]: the first key that a query sees, never falling from one to the next; null: 0
    const void *q, *k, *v; // [B, S, H, C], [B, S, G, C], [B, S, G, U]
    void *y;               // [B, S, H, U]
    float *lse;            // [B, H, S]: the logarithm of a query's sum of exponentials
    const void *grad_y;
    void *grad_q, *grad_k, *grad_v;
    int64_t shared() const { return heads / groups; }
    int64_t panels() const { return (length + COLUMNS - 1) / COLUMNS; }
};

constexpr int64_t panels_of(int64_t width) { return (width + COLUMNS - 1) / COLUMNS; }
constexpr int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

// The rows of one head in an array [B, S, heads, width].
template <typename T>
struct Head {
    T *begin;
    int64_t stride;
    T *operator()(int64_t position) const { return begin + position * stride; }
};

template <typename T, typename Void>
Head<T> head_of(const Call &call, Void *array, int64_t sequence, int64_t head, int64_t heads, int64_t width) {
    return {static_cast<T *>(array) + (sequence * call.length * heads + head) * width, heads * width};
}

// Panels whose columns are positions, over the width: what rows of as many numbers are multiplied with for scores.
template <typename T>
void pack_positions(Head<const T> head, int64_t length, int64_t width, uint32_t *panel) {
    for (int64_t first = 0; first < length; first += COLUMNS, panel += units<T>(width) * COLUMNS) {
        const T *columns[COLUMNS];
        for (int64_t c = 0; c < COLUMNS; ++c) columns[c] = head(least_of(first + c, length - 1));
        pack_columns(columns, width, panel);
    }
}

// Panels whose columns are the width, over positions first .. first + count: what sums over positions are made with.
template <typename T>
void pack_width(Head<const T> head, int64_t first, int64_t count, int64_t width, uint32_t *panel) {
    for (int64_t column = 0; column < width; column += COLUMNS, panel += units<T>(count) * COLUMNS)
        pack_rows(head.begin, [&](int64_t i) { return head(first + i) + column; }, count,
                  least_of(width - column, COLUMNS), panel);
}

// Queries that are multiplied together, and the panels of keys that at least one of them sees.
struct Tile {
    int64_t query, n;      // the first one, how many
    int64_t panel, end;    // the first panel, and the one behind the last
    const int32_t *first;  // of the sequence's queries, or null

    Tile(const Call &call, int64_t sequence, int64_t from, int64_t most)
        : query(from), n(least_of(call.length - from, most)), end((from + n - 1) / COLUMNS + 1),
          first(call.first ? call.first + sequence * call.length : nullptr) {
        panel = seen_from(query) / COLUMNS;
    }
    int64_t seen_from(int64_t position) const { return first ? first[position] : 0; }
    int64_t width() const { return (end - panel) * COLUMNS; }
    int64_t key() const { return panel * COLUMNS; }  // where the panels begin
    int64_t keys() const { return query + n - key(); }
};

// The tile's rows with all of its panels of positions: [panels][ROWS][COLUMNS].
template <typename T>
void multiply_positions(const Tile &tile, Head<const T> head, int64_t width, const uint32_t *panels, float *out) {
    const auto multiply = [&](auto row) {
        decltype(row(0)) rows[ROWS];
        for (int64_t r = 0; r < tile.n; ++r) rows[r] = row(r);
        for (int64_t p = tile.panel; p < tile.end; ++p, out += ROWS * COLUMNS)
            product_of(static_cast<int>(tile.n), rows, width, panels + p * units<T>(width) * COLUMNS, out);
    };
    alignas(64) float wide[ROWS * WIDENED];
    const auto row = [&](int64_t r) { return head(tile.query + r); };
    if (width <= WIDENED) multiply(as_units<T>(tile.n, row, width, wide));
    else multiply(row);
}

// The tile's rows of numbers, one for each key from tile.key() on, times the positions' rows: sink(row, column, COLUMNS sums).
template <typename T, typename Sink>
void multiply_width(const Call &call, const Tile &tile, const T *numbers, int64_t stride, int64_t width,
                    const uint32_t *panels, Sink sink) {
    alignas(64) float out[ROWS * COLUMNS];
    const T *rows[ROWS];
    for (int64_t r = 0; r < tile.n; ++r) rows[r] = numbers + r * stride;
    panels += tile.key() / PER_UNIT<T> * COLUMNS;
    for (int64_t column = 0; column < width; column += COLUMNS, panels += units<T>(call.length) * COLUMNS) {
        product_of(static_cast<int>(tile.n), rows, tile.keys(), panels, out);
        for (int64_t r = 0; r < tile.n; ++r) sink(r, column, out + r * COLUMNS);
    }
}

// Zero where a query does not look: scores outside of its span are put so low that their exponential is none.
LANES_INLINE Floats shares_of(Floats scores) { return scores <= -87.0f ? zeros() : exponential(scores); }

// Hides the keys of a tile's row r that its query does not see.
inline void hide(const Tile &tile, int64_t r, float *scores) {
    const int64_t query = tile.query + r, from = tile.seen_from(query) - tile.key(), to = query + 1 - tile.key();
    Ints places;
    for (int lane = 0; lane < LANES; ++lane) places[lane] = lane;
    for (int64_t key = 0; key < tile.width(); key += LANES) {
        if (key >= from && key + LANES <= to) continue;
        float *at = scores + (key / COLUMNS * ROWS + r) * COLUMNS + key % COLUMNS;
        const Ints keys = places + static_cast<int32_t>(key);
        const Ints is_seen = (keys >= static_cast<int32_t>(from)) & (keys < static_cast<int32_t>(to));
        store(at, is_seen ? load(at) : all(-__builtin_inff()));
    }
}

// Calls each(offset into the panels, place in a row of keys) for every vector of a tile's row r.
template <typename Each>
LANES_INLINE void for_vectors(const Tile &tile, int64_t r, const Each &each) {
    for (int64_t p = 0; p < tile.end - tile.panel; ++p)
        for (int64_t v = 0; v < VECTORS; ++v)
            each(p * ROWS * COLUMNS + r * COLUMNS + v * LANES, p * COLUMNS + v * LANES);
}

// 0, or 1 where a first key is after its query, decreases, or is negative.
inline int check(const Call &call) {
    for (int64_t i = 0; call.first && i < call.batch * call.length; ++i) {
        const int64_t position = i % call.length;
        if (call.first[i] < (position ? call.first[i - 1] : 0) || call.first[i] > position) return 1;
    }
    return 0;
}

// Calls task(sequence, group, the thread's Memory) for each group of heads. 0, or 1 where first keys are wrong, or 2 without
// memory.
template <typename Memory, typename Task>
int for_groups(const Call &call, const Task &task) {
    if (const int error = check(call)) return error;
    scratch::Parts needed;
    const Memory only_counted(call, needed);
    const int64_t own = scratch::aligned(needed.bytes);
    const scratch::Memory memory(call.threads * own);
    if (!memory.data) return 2;
    const int threads = static_cast<int>(call.threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < call.batch * call.groups; ++i) {
        scratch::Parts parts(memory.at<char>(own * scratch::thread_number()));
        task(i / call.groups, i % call.groups, Memory(call, parts));
    }
    return 0;
}

}  // namespace attention
