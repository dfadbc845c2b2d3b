// MLA in its absorbed form (model/layers/attention/mla.py): queries are mapped into the space of the latents, and
// attention is that of many heads over one head whose keys are latent and rotary key, and whose values are the latent.
//
// The same form is used for prompts: it multiplies more than expanding the latents would, but a token's result does not
// depend on the number of tokens.

#pragma once

#include "serving/attention.h"

namespace serve {

inline int query_width(const Model &model) { return model.d_nope + model.d_rotary; }

// Keeps a token's latent and rotary key; makes its queries' latent ready for the next product, where there is one.
inline void place_token(const Model &model, int layer, const Part &part, int row, int turn, const Memory &memory) {
    const AttentionWeights &weights = model.layers[layer].attention;
    const int t = part.first + row, d_latent = model.d_value;
    float *q = memory.down_TN + t * memory.d_down, *key = q + weights.down.n - model.d_key;
    add_row(q, weights.b_down, weights.down.n);
    norm_row(key, weights.k_norm, d_latent, model.latent_eps, key);
    turn_row(model, turn, key + d_latent);
    keep(model, layer, part, row, 0, key, key);
    if (weights.q_up.n) {
        norm_row(q, weights.q_norm, weights.q_up.k, model.latent_eps, q);
        pack_row(model.kind, q, weights.q_up.k, memory.in.row(t), memory.in.scale(t));
    }
}

// Maps rows [T, H] of `from` by one matrix per head, into `to` [T, H, stride].
inline void map_heads(const Model &model, const Stack &maps, int n_tokens, const Memory &memory, int64_t stride) {
    const Matrix first = maps.first;
    share(model.n_threads, model.n_heads, [&](int head, int) {
        const int64_t stride_of_head = memory.latent.stride * model.n_heads;
        const Rows rows = {memory.latent.row(head), stride_of_head, nullptr, memory.latent.scale(head * n_tokens)};
        for_outputs(maps[head], 0, first.strips(), rows, n_tokens, [&](int t, int strip, const float *outputs) {
            float *to = memory.mapped_TN + (static_cast<int64_t>(t) * model.n_heads + head) * stride + strip * STRIP;
            copy_row(outputs, in_strip(first.n, strip), to);
        });
    });
}

// Rows of one head follow each other in `scales`, as `map_heads` reads them.
inline void pack_head(const Model &model, const float *x, int width, int t, int head, int n_tokens, const Memory &memory) {
    const int64_t row = static_cast<int64_t>(t) * model.n_heads + head;
    pack_row(model.kind, x, width, memory.latent.row(row), memory.latent.scale(static_cast<int64_t>(head) * n_tokens + t));
}

inline void place_latent(const Model &model, int layer, const Step &step, const Memory &memory) {
    const AttentionWeights &weights = model.layers[layer].attention;
    const int n_heads = model.n_heads, d_query = query_width(model);
    share_blocks(model.n_threads, step, [&](const Part &part, int row) {
        place_token(model, layer, part, row, step.turns[part.first + row], memory);
    });
    float *q_TN = memory.down_TN;
    int64_t d_q = memory.d_down;
    if (weights.q_up.n) {
        q_TN = memory.queries_TN;
        d_q = up_to(weights.q_up.n, STRIP);
        multiply_all(model, weights.q_up, memory.in.rows(), step.n_tokens, [&](int t, int strip, const float *outputs) {
            copy_row(outputs, STRIP, q_TN + t * d_q + strip * STRIP);
        });
    }
    share(model.n_threads, step.n_tokens, [&](int t, int) {
        for (int head = 0; head < n_heads; ++head)
            pack_head(model, q_TN + t * d_q + head * d_query, model.d_nope, t, head, step.n_tokens, memory);
    });
    map_heads(model, weights.absorb, step.n_tokens, memory, model.d_key);
    share(model.n_threads, step.n_tokens, [&](int t, int) {
        for (int head = 0; head < n_heads; ++head) {
            const int64_t place = static_cast<int64_t>(t) * n_heads + head;
            float *mapped = memory.mapped_TN + place * model.d_key;
            copy_row(q_TN + t * d_q + head * d_query + model.d_nope, model.d_rotary, mapped + model.d_value);
            turn_row(model, step.turns[t], mapped + model.d_value);
            pack_row(model.cache_kind, mapped, model.d_key, memory.queries.row(place), nullptr);
        }
    });
}

// From weighted sums of latents to the heads' outputs, in `mapped_TN`.
inline void restore_latent(const Model &model, int layer, int n_tokens, const Memory &memory) {
    share(model.n_threads, n_tokens, [&](int t, int) {
        const float *heads = memory.heads_TN + t * memory.d_heads;
        for (int head = 0; head < model.n_heads; ++head)
            pack_head(model, heads + head * model.d_value, model.d_value, t, head, n_tokens, memory);
    });
    map_heads(model, model.layers[layer].attention.restore, n_tokens, memory, model.d_out);
}

}  // namespace serve
