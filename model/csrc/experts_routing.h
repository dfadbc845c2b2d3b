// Which rows each expert computes.

#pragma once

#include "scratch.h"
#include "tiles.h"

namespace experts {

using namespace tiles;
using namespace scratch;

// Sizes and arrays of one call. Arrays are whole and in C order; what is not wanted is null.
struct Call {
    int64_t tokens, choices, d, f, experts, threads;
    int64_t few;           // rows per expert up to which columns are read where they lie
    const void *x;         // [T, D]
    const float *weights;  // [T, K]
    const int64_t *chosen; // [T, K]
    const void *gate, *up; // [E, F, D]
    const void *down;      // [E, D, F]
    void *gate_up;         // [N, 2 F]: what the activation gets, N = T K pairs sorted by expert; kept for `backward`
    void *y;               // [T, D]
    const void *grad_y;    // [T, D]
    void *grad_x;          // [T, D]
    float *grad_weights;   // [T, K]
    void *grad_gate, *grad_up, *grad_down;
    int64_t pairs() const { return tokens * choices; }
};

// (token, choice) pairs sorted by expert, within an expert by token: a counting sort.
class Routing {
  public:
    explicit Routing(const Call &call)
        : memory_((2 * call.experts + 2 + 2 * call.pairs()) * 8 + call.pairs() * 4), experts_(call.experts) {
        if (!memory_.data) return;
        start = memory_.at<int64_t>(0);
        touched = start + call.experts + 1;
        token = touched + call.experts + 1;
        pair = token + call.pairs();
        weight = reinterpret_cast<float *>(pair + call.pairs());
    }

    // 0, or 1 where an expert's number is out of range, or 2 without memory.
    int sort(const Call &call) {
        if (!memory_.data) return 2;
        std::memset(start, 0, sizeof(int64_t) * static_cast<size_t>(experts_ + 1));
        for (int64_t p = 0; p < call.pairs(); ++p) {
            if (call.chosen[p] < 0 || call.chosen[p] >= experts_) return 1;
            ++start[call.chosen[p]];
        }
        for (int64_t e = 0, before = 0; e <= experts_; ++e) {
            const int64_t count = e < experts_ ? start[e] : 0;
            start[e] = before;
            before += count;
            if (count) touched[n_touched++] = e;
            if (count > most) most = count;
        }
        for (int64_t p = 0; p < call.pairs(); ++p) {
            const int64_t place = start[call.chosen[p]]++;
            token[place] = p / call.choices;
            pair[place] = p;
            weight[place] = call.weights[p];
        }
        for (int64_t e = experts_; e > 0; --e) start[e] = start[e - 1];
        start[0] = 0;
        return 0;
    }

    int64_t rows(int64_t expert) const { return start[expert + 1] - start[expert]; }

    int64_t *start = nullptr;    // [E + 1]: expert e has the sorted pairs start[e] .. start[e + 1]
    int64_t *touched = nullptr;  // the experts that have rows
    int64_t *token = nullptr, *pair = nullptr;  // of each sorted pair; `pair` is its place in [T, K]
    float *weight = nullptr;
    int64_t n_touched = 0, most = 0;

  private:
    Memory memory_;
    int64_t experts_;
};

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

// As `with_panel` for columns that lie side by side in memory: packed into `panel` where the rows are many, else read
// where they lie. `next` are the columns that will be asked for after these.
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

}  // namespace experts
