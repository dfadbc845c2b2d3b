// One step of the compiled engine, from token ids to logits: the entry points that Python calls.
//
// The residual stream is fp32; rows for weights are narrowed once per product. A row's results do not depend on the
// other rows of the step nor on the number of threads, see serving/products.h.

#include "serving/attention.h"
#include "serving/experts.h"
#include "serving/latent.h"
#include "serving/pack.h"

namespace serve {

// --- Working memory ---------------------------------------------------------------------------------------------------

namespace {

// Hands out pieces of memory one after the other; from null it only counts.
struct Pieces {
    char *base;
    int64_t used = 0;
    template <typename T>
    T *take(int64_t n) {
        T *piece = base ? reinterpret_cast<T *>(base + used) : nullptr;
        used += up_to(n * static_cast<int64_t>(sizeof(T)), 64);
        return piece;
    }
    Packed take_rows(int32_t kind, int64_t n_rows, int64_t width) {
        const int64_t stride = row_bytes(kind, width);
        char *data = take<char>(n_rows * stride);
        return {data, has_row_scales(kind) ? take<float>(n_rows) : nullptr, stride};
    }
};

int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// The largest of each size over the layers; of `hidden` and `hidden_bytes` numbers and bytes of all rows together.
struct Widths {
    int64_t down = 0, hidden = 0, hidden_bytes = 0, hidden_rows, experts = 0, chosen = 1, q_up_n = 0, q_up_k = 0;
    Widths(const Model &model, int64_t n_tokens) : hidden_rows(n_tokens) {
        const auto holds = [&](int64_t n_rows, int32_t width) {
            hidden = most(hidden, n_rows * up_to(width, HALF));
            hidden_bytes = most(hidden_bytes, n_rows * row_bytes(model.kind, width));
        };
        for (const Layer *layer = model.layers; layer < model.layers + model.n_layers; ++layer) {
            down = most(down, layer->attention.down.n);
            const AttentionWeights &attention = layer->attention;
            q_up_n = most(q_up_n, attention.q_up.n);
            q_up_k = most(q_up_k, attention.q_up.k);
            holds(n_tokens, layer->shared.width);
            if (!layer->routed.width) continue;
            holds(n_tokens * layer->router.top_k, layer->routed.width);
            experts = most(experts, layer->router.weight.n);
            chosen = most(chosen, layer->router.top_k);
        }
        hidden_rows *= chosen;
    }
};

}  // namespace

static Memory lay_out(const Model &model, int n_tokens, int most_keys, char *base) {
    const Widths widths(model, n_tokens);
    const int64_t n_heads_TH = static_cast<int64_t>(n_tokens) * model.n_heads;
    Pieces pieces{base};
    Memory memory{};
    memory.d_x = up_to(model.d_model, STRIP);
    memory.d_down = up_to(widths.down, STRIP);
    memory.d_heads = static_cast<int64_t>(model.n_heads) * model.d_value;
    memory.d_router = up_to(widths.experts, STRIP);
    memory.x_TD = pieces.take<float>(n_tokens * memory.d_x);
    memory.normed_TD = pieces.take<float>(n_tokens * memory.d_x);
    memory.down_TN = pieces.take<float>(n_tokens * memory.d_down);
    memory.heads_TN = pieces.take<float>(n_tokens * memory.d_heads);
    memory.router_TE = pieces.take<float>(n_tokens * memory.d_router);
    const int64_t d_heads_out = static_cast<int64_t>(model.n_heads) * model.d_out;
    memory.in = pieces.take_rows(model.kind, n_tokens, most(most(model.d_model, widths.q_up_k), d_heads_out));
    memory.hidden.data = pieces.take<char>(widths.hidden_bytes);
    if (has_row_scales(model.kind)) memory.hidden.scales = pieces.take<float>(widths.hidden_rows);
    if (is_quantised(model.kind)) memory.hidden_NF = pieces.take<float>(widths.hidden);
    memory.queries = pieces.take_rows(model.cache_kind, n_heads_TH, model.d_key);
    if (model.d_nope) {
        memory.queries_TN = pieces.take<float>(n_tokens * up_to(widths.q_up_n, STRIP));
        memory.mapped_TN = pieces.take<float>(n_heads_TH * most(model.d_key, model.d_out));
        memory.latent = pieces.take_rows(model.kind, n_heads_TH, most(model.d_nope, model.d_value));
    }
    memory.weights_N = pieces.take<float>(n_tokens * widths.chosen);
    memory.choice_weights_TK = pieces.take<float>(n_tokens * widths.chosen);
    memory.tokens_N = pieces.take<int32_t>(n_tokens * widths.chosen);
    memory.choices_TK = pieces.take<int32_t>(n_tokens * widths.chosen);
    memory.offsets_E = pieces.take<int32_t>(widths.experts);
    memory.thread_bytes = up_to(attention_bytes(most_keys), 64);
    memory.threads = pieces.take<char>(model.n_threads * memory.thread_bytes);
    memory.bytes = pieces.used;
    return memory;
}

// --- A step -----------------------------------------------------------------------------------------------------------

namespace {

// Norms the residual stream, in fp32 and as rows for weights.
void norm(const Model &model, const float *weight, int n_tokens, const Memory &memory) {
    share(model.n_threads, n_tokens, [&](int t, int) {
        float *normed = memory.normed_TD + t * memory.d_x;
        norm_row(memory.x_TD + t * memory.d_x, weight, model.d_model, model.eps, normed);
        pack_row(model.kind, normed, model.d_model, memory.in.row(t), memory.in.scale(t));
    });
}

void norm_heads(const AttentionWeights &weights, const float *weight, int n_heads, int width, float eps, float *x) {
    if (weights.head_norm == ALL_HEADS) norm_row(x, weight, static_cast<int64_t>(n_heads) * width, eps, x);
    if (weights.head_norm == EACH_HEAD)
        for (int head = 0; head < n_heads; ++head) norm_row(x + head * width, weight, width, eps, x + head * width);
}

// From the projections of one token to its queries, and to its keys and values in the cache.
void place_heads(const Model &model, int layer, const Part &part, int row, int turn, const Memory &memory) {
    const AttentionWeights &weights = model.layers[layer].attention;
    const int t = part.first + row, n_heads = model.n_heads, n_kv_heads = model.n_kv_heads, width = model.d_key;
    float *q = memory.down_TN + t * memory.d_down, *k = q + n_heads * width, *v = k + n_kv_heads * width;
    add_row(q, weights.b_down, weights.down.n);
    norm_heads(weights, weights.q_norm, n_heads, width, model.eps, q);
    norm_heads(weights, weights.k_norm, n_kv_heads, width, model.eps, k);
    if (weights.clip < INFINITY)
        for (int i = 0; i < weights.down.n; ++i)
            q[i] = q[i] > weights.clip ? weights.clip : q[i] < -weights.clip ? -weights.clip : q[i];
    for (int head = 0; head < n_heads; ++head) {
        turn_row(model, turn, q + head * width);
        const int64_t place = static_cast<int64_t>(t) * n_heads + head;
        pack_row(model.cache_kind, q + head * width, width, memory.queries.row(place), nullptr);
    }
    for (int head = 0; head < n_kv_heads; ++head) {
        turn_row(model, turn, k + head * width);
        keep(model, layer, part, row, head, k + head * width, v + head * model.d_value);
    }
}

void place_grouped(const Model &model, int layer, const Step &step, const Memory &memory) {
    share_blocks(model.n_threads, step, [&](const Part &part, int row) {
        place_heads(model, layer, part, row, step.turns[part.first + row], memory);
    });
}

void attention(const Model &model, int index, const Step &step, const Memory &memory) {
    const AttentionWeights &weights = model.layers[index].attention;
    norm(model, weights.norm, step.n_tokens, memory);
    multiply_all(model, weights.down, memory.in.rows(), step.n_tokens, [&](int row, int strip, const float *outputs) {
        copy_row(outputs, STRIP, memory.down_TN + row * memory.d_down + strip * STRIP);
    });
    const bool is_latent = model.d_nope > 0;
    if (is_latent) place_latent(model, index, step, memory);
    else place_grouped(model, index, step, memory);
    attend(model, index, step, memory);
    if (is_latent) restore_latent(model, index, step.n_tokens, memory);
    share(model.n_threads, step.n_tokens, [&](int t, int) {
        const float *heads = is_latent ? memory.mapped_TN : memory.heads_TN;
        pack_row(model.kind, heads + static_cast<int64_t>(t) * weights.out.k, weights.out.k, memory.in.row(t), memory.in.scale(t));
    });
    multiply_all(model, weights.out, memory.in.rows(), step.n_tokens, [&](int row, int strip, const float *outputs) {
        float *x = memory.x_TD + row * memory.d_x + strip * STRIP;
        if (weights.b_out) add_row(x, weights.b_out + strip * STRIP, in_strip(model.d_model, strip));
        for (int c = 0; c < STRIP; c += LANES) lanes::store(x + c, lanes::load(x + c) + lanes::load(outputs + c));
    });
}

// Last norm and head of the rows whose logits are wanted.
void tell(const Model &model, const Step &step, const Memory &memory) {
    for (int i = 0; i < step.n_wanted; ++i) {
        norm_row(memory.x_TD + step.wanted[i] * memory.d_x, model.norm, model.d_model, model.eps, memory.normed_TD);
        pack_row(model.kind, memory.normed_TD, model.d_model, memory.in.row(i), memory.in.scale(i));
    }
    if (!step.n_wanted) return;
    multiply_all(model, model.head, memory.in.rows(), step.n_wanted, [&](int row, int strip, const float *outputs) {
        float *to = step.logits + static_cast<int64_t>(row) * model.head.n + strip * STRIP;
        copy_row(outputs, in_strip(model.head.n, strip), to);
    });
}

// A token's row of the embedding, in fp32.
void embed(const Model &model, int32_t id, float *to) {
    if (!model.embedding) return unpack_row(model.head, id, to);
    const int64_t start = static_cast<int64_t>(id) * model.d_model;
    if (model.embedding_kind == BF16) widen_row(static_cast<const lanes::bf16 *>(model.embedding) + start, model.d_model, to);
    else copy_row(static_cast<const float *>(model.embedding) + start, model.d_model, to);
}

}  // namespace
}  // namespace serve

// --- Entry points -----------------------------------------------------------------------------------------------------

using namespace serve;

LANES_EXPORT int64_t serve_block_bytes(const Model *model) { return block_bytes(*model); }

// 0 when the step is done; where its memory is too small nothing is, and the answer is how many bytes it needs.
LANES_EXPORT int64_t serve_step(const Model *model, const Step *step) {
    const Memory memory = lay_out(*model, step->n_tokens, step->most_keys, step->memory);
    if (memory.bytes > step->memory_bytes) return memory.bytes;
    for (int t = 0; t < step->n_tokens; ++t) embed(*model, step->ids[t], memory.x_TD + t * memory.d_x);
    for (int layer = 0; layer < model->n_layers; ++layer) {
        attention(*model, layer, *step, memory);
        norm(*model, model->layers[layer].ffn_norm, step->n_tokens, memory);
        feed(*model, layer, step->n_tokens, memory);
    }
    tell(*model, *step, memory);
    return 0;
}

// fp32 rows [M, K] times one matrix, as the layers multiply them: to [M, N]. 0 where there is no memory, else 1.
LANES_EXPORT int32_t serve_product(const Matrix *matrix, const float *x_MK, int32_t n_rows, float *to_MN) {
    const int64_t stride = row_bytes(matrix->kind, matrix->k), scales_bytes = up_to(n_rows * 4, 64);
    char *memory = static_cast<char *>(std::malloc(static_cast<size_t>(scales_bytes + n_rows * stride)));
    if (!memory) return 0;
    const Packed rows = {memory + scales_bytes, has_row_scales(matrix->kind) ? reinterpret_cast<float *>(memory) : nullptr, stride};
    for (int64_t row = 0; row < n_rows; ++row)
        pack_row(matrix->kind, x_MK + row * matrix->k, matrix->k, rows.row(row), rows.scale(row));
    for_outputs(*matrix, 0, matrix->strips(), rows.rows(), n_rows, [&](int row, int strip, const float *outputs) {
        copy_row(outputs, in_strip(matrix->n, strip), to_MN + static_cast<int64_t>(row) * matrix->n + strip * STRIP);
    });
    std::free(memory);
    return 1;
}

// Packs one matrix from rows of fp32 or bf16, see serving/pack.h. 0 where there is no memory, else 1.
LANES_EXPORT int32_t serve_pack(const Matrix *matrix, const void *first, const void *second, int32_t n_rows, int32_t is_bf16) {
    return pack_matrix(*matrix, {first, second, n_rows, is_bf16});
}

// Sizes of the structs that Python mirrors, in the order of serving/model.h; returns how many.
LANES_EXPORT int32_t serve_sizes(int64_t *sizes) {
    const int64_t all[] = {sizeof(Matrix), sizeof(Stack), sizeof(AttentionWeights), sizeof(FeedForward), sizeof(Router),
                           sizeof(Layer),  sizeof(Model), sizeof(Part),             sizeof(Step)};
    std::memcpy(sizes, all, sizeof all);
    return sizeof all / sizeof all[0];
}
