// y[q] = sum over the keys that q sees of softmax(scale * q . k) v, and what the backward pass needs of the softmax.
//
// The scores of a tile of queries with all their keys stay in the L1 cache: no sums have to be corrected later, and
// results do not depend on the number of threads.

#pragma once

#include <cmath>

#include "attention/heads.h"

namespace attention {

template <typename T>
struct ForwardMemory {
    uint32_t *keys, *values;
    float *scores;
    T *shares;
    ForwardMemory(const Call &call, scratch::Parts &parts) {
        keys = parts.take<uint32_t>(call.panels() * units<T>(call.d_key) * COLUMNS);
        values = parts.take<uint32_t>(panels_of(call.d_value) * units<T>(call.length) * COLUMNS);
        scores = parts.take<float>(call.panels() * COLUMNS * ROWS);
        shares = parts.take<T>(call.panels() * COLUMNS * ROWS);
    }
};

// A row's exponentials over the largest; returns their sum and puts the logarithm of the whole sum into `lse`.
template <typename T>
float soften(const Tile &tile, int64_t r, float scale, const float *scores, T *shares, float &lse) {
    Floats tops = all(-__builtin_inff()), whole = zeros();
    for_vectors(tile, r, [&](int64_t at, int64_t) { tops = most(tops, load(scores + at)); });
    const float top = largest(tops);
    for_vectors(tile, r, [&](int64_t at, int64_t key) {
        const Floats share = shares_of((load(scores + at) - top) * scale);
        whole += share;
        store(shares + key, share);
    });
    const float total = sum(whole);
    lse = top * scale + std::log(total);
    return total;
}

template <typename T>
void forward_tile(const Call &call, const Tile &tile, const ForwardMemory<T> &memory, Head<const T> q, Head<T> y, float *lse) {
    const int64_t stride = tile.width();
    const float scale = static_cast<float>(call.scale);
    float of_sum[ROWS];
    multiply_positions(tile, q, call.d_key, memory.keys, memory.scores);
    for (int64_t r = 0; r < tile.n; ++r) {
        hide(tile, r, memory.scores);
        of_sum[r] = 1.0f / soften(tile, r, scale, memory.scores, memory.shares + r * stride, lse[tile.query + r]);
    }
    const T *shares = memory.shares;
    multiply_width(call, tile, shares, stride, call.d_value, memory.values, [&](int64_t r, int64_t column, const float *out) {
        T *to = y(tile.query + r) + column;
        for (int v = 0; v < VECTORS; ++v) store_at(to, v, call.d_value - column, load(out + v * LANES) * of_sum[r]);
    });
}

// 0, or 1 where first keys are wrong, or 2 without memory.
template <typename T>
int forward(const Call &call) {
    return for_groups<ForwardMemory<T>>(call, [&](int64_t sequence, int64_t group, const ForwardMemory<T> &memory) {
        const auto k = head_of<const T>(call, call.k, sequence, group, call.groups, call.d_key);
        const auto v = head_of<const T>(call, call.v, sequence, group, call.groups, call.d_value);
        pack_positions(k, call.length, call.d_key, memory.keys);
        pack_width(v, 0, call.length, call.d_value, memory.values);
        for (int64_t head = group * call.shared(); head < (group + 1) * call.shared(); ++head) {
            const auto q = head_of<const T>(call, call.q, sequence, head, call.heads, call.d_key);
            const auto y = head_of<T>(call, call.y, sequence, head, call.heads, call.d_value);
            float *lse = call.lse + (sequence * call.heads + head) * call.length;
            for (int64_t query = 0; query < call.length; query += ROWS)
                forward_tile<T>(call, Tile(call, sequence, query, ROWS), memory, q, y, lse);
        }
    });
}

}  // namespace attention
