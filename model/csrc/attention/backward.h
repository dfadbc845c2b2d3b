// The gradients of `forward` by q, k and v, each written once and whole.
//
// Scores are computed again and normalised with the kept sums. Gradients of keys and values are summed in fp32 over a block
// of queries at a time, large enough that adding to the sums costs little compared with the products.

#pragma once

#include <initializer_list>

#include "attention/heads.h"

namespace attention {

constexpr int64_t BLOCK = 16 * ROWS;  // queries

template <typename T>
struct BackwardMemory {
    uint32_t *keys, *values;            // their positions as columns
    uint32_t *key_rows;                 // their width as columns
    uint32_t *queries, *grads, *left;   // a block's rows of q and grad_y; its shares or gradients of scores, transposed
    float *scores, *grad_shares;        // of a tile
    T *shares, *grad_scores;            // of a block
    float *grad_keys, *grad_values;     // sums of a group
    BackwardMemory(const Call &call, scratch::Parts &parts) {
        const int64_t d_key = panels_of(call.d_key) * COLUMNS, d_value = panels_of(call.d_value) * COLUMNS;
        const int64_t length = call.panels() * COLUMNS;
        keys = parts.take<uint32_t>(length * units<T>(call.d_key));
        values = parts.take<uint32_t>(length * units<T>(call.d_value));
        key_rows = parts.take<uint32_t>(d_key * units<T>(call.length));
        queries = parts.take<uint32_t>(d_key * units<T>(BLOCK));
        grads = parts.take<uint32_t>(d_value * units<T>(BLOCK));
        left = parts.take<uint32_t>((length + ROWS) * units<T>(BLOCK));
        scores = parts.take<float>(length * ROWS);
        grad_shares = parts.take<float>(length * ROWS);
        shares = parts.take<T>(length * BLOCK);
        grad_scores = parts.take<T>(length * BLOCK);
        grad_keys = parts.take<float>(call.length * d_key);
        grad_values = parts.take<float>(call.length * d_value);
    }
};

// One head of q and y.
template <typename T>
struct HeadGradients {
    Head<const T> q, y, grad_y;
    Head<T> grad_q;
    const float *lse;
};

template <typename T>
float dot(const T *a, const T *b, int64_t count) {
    Floats products = zeros();
    lanes::for_vectors(count, [&](int64_t i, int64_t n) { products += load(a + i, n) * load(b + i, n); });
    return sum(products);
}

// A row's shares, and the gradients of its scores: shares * (gradient of the share - their mean by the shares), scaled.
template <typename T>
void differentiate(const Tile &tile, int64_t r, float scale, float lse, float mean, const BackwardMemory<T> &memory, T *shares,
                   T *grad_scores) {
    for_vectors(tile, r, [&](int64_t at, int64_t key) {
        const Floats share = shares_of(load(memory.scores + at) * scale - lse);
        store(shares + key, share);
        store(grad_scores + key, share * (load(memory.grad_shares + at) - mean) * scale);
    });
}

// A tile's rows of the block's shares and gradients of scores, which begin with the block's first panel, and grad_q.
template <typename T>
void backward_tile(const Call &call, const Tile &block, const Tile &tile, const BackwardMemory<T> &memory,
                   const HeadGradients<T> &head) {
    const int64_t stride = block.width(), skipped = tile.key() - block.key();
    const int64_t row = (tile.query - block.query) * stride;
    multiply_positions(tile, head.q, call.d_key, memory.keys, memory.scores);
    multiply_positions(tile, head.grad_y, call.d_value, memory.values, memory.grad_shares);
    for (int64_t r = 0; r < tile.n; ++r) {
        const int64_t query = tile.query + r;
        T *shares = memory.shares + row + r * stride, *grad_scores = memory.grad_scores + row + r * stride;
        hide(tile, r, memory.scores);
        differentiate(tile, r, static_cast<float>(call.scale), head.lse[query],
                      dot<T>(head.y(query), head.grad_y(query), call.d_value), memory, shares + skipped, grad_scores + skipped);
        for (T *numbers : {shares, grad_scores}) {
            std::memset(numbers, 0, static_cast<size_t>(skipped) * sizeof(T));
            const int64_t end = skipped + tile.width();
            std::memset(numbers + end, 0, static_cast<size_t>(stride - end) * sizeof(T));
        }
    }
    const T *grad_scores = memory.grad_scores + row + skipped;
    multiply_width(call, tile, grad_scores, stride, call.d_key, memory.key_rows, [&](int64_t r, int64_t column, const float *out) {
        T *to = head.grad_q(tile.query + r) + column;
        for (int v = 0; v < VECTORS; ++v) store_at(to, v, call.d_key - column, load(out + v * LANES));
    });
}

// sums[key] += sum over the block's queries of numbers[query][key] * the query's row, packed in `panels`.
template <typename T>
void add_over_queries(const Tile &block, const T *numbers, const uint32_t *panels, int64_t width, uint32_t *left, float *sums) {
    alignas(64) float out[ROWS * COLUMNS];
    const int64_t stride = block.width(), n_units = units<T>(block.n), summed = panels_of(width) * COLUMNS;
    pack_left(numbers, [&](int64_t i) { return numbers + i * stride; }, block.n, 0, block.keys(), left);
    for (int64_t m = 0; m < block.keys(); m += ROWS) {
        const int64_t key = block.key() + m, height = least_of(block.keys() - m, ROWS);
        const int64_t unseen = key > block.query ? (key - block.query) / PER_UNIT<T> : 0;  // units of earlier queries
        const Unit<T> *rows[ROWS];
        for (int64_t r = 0; r < height; ++r) rows[r] = packed_row<T>(left + (m / ROWS * n_units + unseen) * ROWS + r);
        for (int64_t p = 0; p < panels_of(width); ++p) {
            product_of_packed<T>(static_cast<int>(height), rows, n_units - unseen, panels + (p * n_units + unseen) * COLUMNS, out);
            for (int64_t r = 0; r < height; ++r) {
                float *to = sums + (key + r) * summed + p * COLUMNS;
                for (int v = 0; v < COLUMNS; v += LANES) store(to + v, load(to + v) + load(out + r * COLUMNS + v));
            }
        }
    }
}

inline void clear_sums(float *sums, int64_t length, int64_t width) {
    std::memset(sums, 0, static_cast<size_t>(length * panels_of(width) * COLUMNS) * sizeof(float));
}

template <typename T>
void write_sums(Head<T> head, int64_t length, int64_t width, const float *sums) {
    for (int64_t i = 0; i < length; ++i, sums += panels_of(width) * COLUMNS)
        for (int64_t v = 0; v * LANES < width; ++v) store_at(head(i), static_cast<int>(v), width, load(sums + v * LANES));
}

template <typename T>
void backward_head(const Call &call, int64_t sequence, const BackwardMemory<T> &memory, const HeadGradients<T> &head) {
    for (int64_t query = 0; query < call.length; query += BLOCK) {
        const Tile block(call, sequence, query, BLOCK);
        for (int64_t i = query; i < query + block.n; i += ROWS)
            backward_tile(call, block, Tile(call, sequence, i, ROWS), memory, head);
        const T *shares = memory.shares, *grad_scores = memory.grad_scores;
        pack_width(head.grad_y, query, block.n, call.d_value, memory.grads);
        add_over_queries(block, shares, memory.grads, call.d_value, memory.left, memory.grad_values);
        pack_width(head.q, query, block.n, call.d_key, memory.queries);
        add_over_queries(block, grad_scores, memory.queries, call.d_key, memory.left, memory.grad_keys);
    }
}

// 0, or 1 where first keys are wrong, or 2 without memory.
template <typename T>
int backward(const Call &call) {
    return for_groups<BackwardMemory<T>>(call, [&](int64_t sequence, int64_t group, const BackwardMemory<T> &memory) {
        const auto k = head_of<const T>(call, call.k, sequence, group, call.groups, call.d_key);
        const auto v = head_of<const T>(call, call.v, sequence, group, call.groups, call.d_value);
        pack_positions(k, call.length, call.d_key, memory.keys);
        pack_positions(v, call.length, call.d_value, memory.values);
        pack_width(k, 0, call.length, call.d_key, memory.key_rows);
        clear_sums(memory.grad_keys, call.length, call.d_key);
        clear_sums(memory.grad_values, call.length, call.d_value);
        for (int64_t i = group * call.shared(); i < (group + 1) * call.shared(); ++i)
            backward_head(call, sequence, memory,
                          HeadGradients<T>{head_of<const T>(call, call.q, sequence, i, call.heads, call.d_key),
                                           head_of<const T>(call, call.y, sequence, i, call.heads, call.d_value),
                                           head_of<const T>(call, call.grad_y, sequence, i, call.heads, call.d_value),
                                           head_of<T>(call, call.grad_q, sequence, i, call.heads, call.d_key),
                                           call.lse + (sequence * call.heads + i) * call.length});
        write_sums(head_of<T>(call, call.grad_k, sequence, group, call.groups, call.d_key), call.length, call.d_key, memory.grad_keys);
        write_sums(head_of<T>(call, call.grad_v, sequence, group, call.groups, call.d_value), call.length, call.d_value, memory.grad_values);
    });
}

}  // namespace attention
