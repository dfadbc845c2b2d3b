// Feed-forwards of a step: dense ones, and the chosen experts of each token, of which only those in use are read.
//
// Pairs of (token, expert) are sorted by expert. One pass computes silu(gate) * up of all of them, one adds the
// weighted outputs to the residual stream, an expert after the other in order of their numbers.

#pragma once

#include "serving/router.h"
#include "serving/rows.h"

namespace serve {

// One expert's rows among the sorted pairs.
struct Used {
    int expert, first, n;
};

inline void route(const Model &model, const Layer &layer, int n_tokens, const Memory &memory) {
    const Router &router = layer.router;
    const Rows rows = {reinterpret_cast<const char *>(memory.normed_TD), memory.d_x * 4, nullptr, nullptr};
    multiply_all(model, router.weight, rows, n_tokens, [&](int row, int strip, const float *outputs) {
        copy_row(outputs, STRIP, memory.router_TE + row * memory.d_router + strip * STRIP);
    });
    share(model.n_threads, n_tokens, [&](int t, int) {
        const int place = t * router.top_k;
        choose(router, memory.router_TE + t * memory.d_router, memory.choices_TK + place, memory.choice_weights_TK + place);
    });
}

// Sorts the pairs by expert, within it by token, and counts them; returns how many experts are used.
inline int sort_pairs(const Router &router, int n_tokens, const Memory &memory, Used *used) {
    const int n_experts = router.weight.n, n_pairs = n_tokens * router.top_k;
    int32_t *next = memory.offsets_E;
    std::memset(next, 0, static_cast<size_t>(n_experts) * sizeof *next);
    for (int i = 0; i < n_pairs; ++i) ++next[memory.choices_TK[i]];
    int n_used = 0, first = 0;
    for (int e = 0; e < n_experts; ++e) {
        const int n = next[e];
        next[e] = first;
        if (n) used[n_used++] = {e, first, n};
        router.load[e] += n;
        first += n;
    }
    for (int i = 0; i < n_pairs; ++i) {
        const int place = next[memory.choices_TK[i]]++;
        memory.tokens_N[place] = i / router.top_k;
        memory.weights_N[place] = memory.choice_weights_TK[i];
    }
    return n_used;
}

// silu(gate) * up of 16 columns, into the row that the next product reads, or in fp32 where that is quantised.
LANES_INLINE void activate(
    const Model &model, const FeedForward &ffn, const float *outputs, int strip, int row, const Memory &memory) {
    const int64_t column = static_cast<int64_t>(strip) * HALF;
    float *wide = memory.hidden_NF + row * up_to(ffn.width, HALF) + column;
    char *packed = memory.hidden.data + row * row_bytes(model.kind, ffn.width);
    for (int i = 0; i < HALF; i += LANES) {
        Floats gate = lanes::load(outputs + i), up = lanes::load(outputs + HALF + i);
        if (ffn.b_gate) {
            const int64_t left = ffn.width - column - i, count = left < 0 ? 0 : left < LANES ? left : LANES;
            gate += lanes::load_part(ffn.b_gate + column + i, count);
            up += lanes::load_part(ffn.b_up + column + i, count);
        }
        const Floats value = lanes::silu(gate) * up;
        if (is_quantised(model.kind)) lanes::store(wide + i, value);
        else put_floats(model.kind, value, packed, column + i);
    }
}

// Adds the feed-forwards `used` of the rows `tokens` (null: all in order, with weight 1 or `gates`) to the residual stream.
inline void apply(const Model &model, const FeedForward &ffn, const Used *used, int n_used, int n_rows, const int32_t *tokens,
                  const float *weights, const Memory &memory) {
    const Matrix up = ffn.gate_up.first, down = ffn.down.first;
    const Packed hidden = {memory.hidden.data, memory.hidden.scales, row_bytes(model.kind, ffn.width)};
    const int run = n_used > 2 * model.n_threads ? up.strips() : (up.strips() + 4 * model.n_threads - 1) / (4 * model.n_threads);
    const int n_runs = (up.strips() + run - 1) / run;
    share(model.n_threads, n_used * n_runs, [&](int task, int) {
        const Used &expert = used[task / n_runs];
        const int first = task % n_runs * run, n = up.strips() - first < run ? up.strips() - first : run;
        const Rows rows = memory.in.rows(tokens ? tokens + expert.first : nullptr);
        for_outputs(ffn.gate_up[expert.expert], first, n, rows, expert.n, [&](int row, int strip, const float *outputs) {
            activate(model, ffn, outputs, strip, expert.first + row, memory);
        });
    });
    if (is_quantised(model.kind))
        share(model.n_threads, n_rows, [&](int row, int) {
            pack_row(model.kind, memory.hidden_NF + row * up_to(ffn.width, HALF), ffn.width, hidden.row(row), hidden.scale(row));
        });
    share_strips(model.n_threads, down.strips(), [&](int first, int n) {
        for (const Used *expert = used; expert < used + n_used; ++expert) {
            const Rows rows = {hidden.row(expert->first), hidden.stride, nullptr, hidden.scale(expert->first)};
            for_outputs(ffn.down[expert->expert], first, n, rows, expert->n, [&](int row, int strip, const float *outputs) {
                const int pair = expert->first + row;
                float *x = memory.x_TD + (tokens ? tokens[pair] : row) * memory.d_x + strip * STRIP;
                const float weight = weights ? weights[pair] : 1.0f;
                if (ffn.b_down) add_row(x, ffn.b_down + strip * STRIP, in_strip(model.d_model, strip));
                for (int c = 0; c < STRIP; c += LANES) lanes::store(x + c, lanes::load(x + c) + weight * lanes::load(outputs + c));
            });
        }
    });
}

inline void gate_shared(const Model &model, const float *gate, int n_tokens, const Memory &memory) {
    for (int t = 0; t < n_tokens; ++t) {
        Floats sums = lanes::zeros();
        in_vectors(model.d_model, [&](int64_t i, int64_t count) {
            sums += lanes::load_part(memory.normed_TD + t * memory.d_x + i, count) * lanes::load_part(gate + i, count);
        });
        memory.weights_N[t] = lanes::sigmoid(lanes::all(lanes::sum(sums)))[0];
    }
}

// The feed-forward of a layer: reads the normed rows, adds to the residual stream.
inline void feed(const Model &model, int index, int n_tokens, const Memory &memory) {
    const Layer &layer = model.layers[index];
    if (layer.routed.width) {
        Used used[MOST_EXPERTS];
        route(model, layer, n_tokens, memory);
        const int n_used = sort_pairs(layer.router, n_tokens, memory, used);
        apply(model, layer.routed, used, n_used, n_tokens * layer.router.top_k, memory.tokens_N, memory.weights_N, memory);
    }
    if (layer.shared.width) {
        const Used all = {0, 0, n_tokens};
        if (layer.shared_gate) gate_shared(model, layer.shared_gate, n_tokens, memory);
        apply(model, layer.shared, &all, 1, n_tokens, nullptr, layer.shared_gate ? memory.weights_N : nullptr, memory);
    }
}

}  // namespace serve
