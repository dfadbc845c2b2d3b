// Data of one step of the compiled engine: weights, caches and working memory, as plain structs.
//
// model/serving/executors/native_tables.py mirrors these structs field by field; `serve_sizes` lets it check their sizes. Shape
// suffixes as in model/layers/__init__.py.

#pragma once

#include <omp.h>

#include "serving/products.h"

namespace serve {

constexpr int BLOCK = 16;  // tokens of a block of keys and values
constexpr int MOST_EXPERTS = 1024;
constexpr int MOST_WIDTH = 2048;  // of a key or value

// Matrices of one shape, one behind the other: of experts or of heads.
struct Stack {
    Matrix first;
    int64_t bytes;  // of one matrix
    Matrix operator[](int i) const {
        Matrix matrix = first;
        matrix.data += i * bytes;
        if (matrix.scales) matrix.scales += i * matrix.strips() * STRIP;
        if (matrix.starts) matrix.starts += i * matrix.strips() * STRIP;
        return matrix;
    }
};

enum HeadNorm : int32_t { NO_NORM = 0, EACH_HEAD = 1, ALL_HEADS = 2 };

// Grouped attention: `down` gives queries, keys and values. MLA (q_up.n or absorb.first.n are not 0): `down`
// gives the queries or their latent, then the latent and the rotary key.
struct AttentionWeights {
    Matrix down, out;
    Matrix q_up;            // latent queries only; n is 0 where there are none
    Stack absorb, restore;  // MLA, of each head: [R, N] and [U, R]
    const float *norm, *b_down, *q_norm, *k_norm, *b_out;  // null where there is none; k_norm is also that of the latent
    int32_t head_norm;
    int32_t window;  // tokens that a query sees; 0: all
    float clip;      // of queries, keys and values; infinite: none
    float scale;     // of scores
};

// SwiGLU: strips of gate_up hold 16 outputs of gate, then the same 16 of up.
struct FeedForward {
    Stack gate_up, down;  // one matrix, or one per expert
    const float *b_gate, *b_up, *b_down;
    int32_t width;  // 0: there is none
    int32_t padding;
};

// What model/layers/moe/router.py is configured with.
struct Router {
    Matrix weight;      // FP32
    const float *bias;  // of the choice; null: none
    int64_t *load;      // [E], counts up: pairs of token and choice that each expert has got
    int32_t top_k, n_groups, top_groups;
    int32_t is_sigmoid, sums_two, normalises;  // sums_two: a group's score is the sum of its two best
    float scale;
    int32_t padding;
};

struct Layer {
    AttentionWeights attention;
    const float *ffn_norm;
    FeedForward routed, shared;  // a dense feed-forward is a shared one without routed ones
    Router router;
    const float *shared_gate;  // [D] or null
};

struct Model {
    const Layer *layers;
    const void *embedding;  // [V, D] in `embedding_kind`; null: the head, of FP32 or BF16, holds the same numbers
    const float *norm, *cos, *sin;  // cos and sin: [positions, d_rotary]
    Matrix head;
    char *cache;  // [layers][G][blocks] of keys [d_key][BLOCK] and values [BLOCK][d_value], packed as Panel reads them
    int32_t n_layers, n_blocks, n_threads;
    int32_t d_model, n_heads, n_kv_heads, d_key, d_value, d_rotary, is_interleaved;
    int32_t d_nope, d_out;  // MLA: of a query's head without rotation, of a head's output; else 0, d_value
    int32_t kind, cache_kind;  // of weights and their rows; of keys and values: FP32 or BF16
    int32_t embedding_kind;    // FP32 or BF16
    float eps, latent_eps;
};

// New tokens of one sequence: rows first .. first + n - 1 of the step, behind `past` others.
struct Part {
    const int32_t *blocks;
    int32_t first, n, past, padding;
};

struct Step {
    const int32_t *ids, *turns, *wanted;  // turns: rows of cos and sin; wanted: rows with logits
    const Part *parts;
    float *logits;  // [n_wanted, V]
    char *memory;   // what serve_step works in
    int64_t memory_bytes;
    int32_t n_tokens, n_parts, n_wanted, most_keys;  // most_keys: of any part, past and new
};

// Rows of one width in the form that a kind of weights multiplies, and their scales.
struct Packed {
    char *data;
    float *scales;
    int64_t stride;
    float *scale(int64_t row) const { return scales ? scales + row : nullptr; }
    char *row(int64_t i) const { return data + i * stride; }
    Rows rows(const int32_t *index = nullptr) const { return {data, stride, index, scales}; }
};

// The working memory of a step.
struct Memory {
    float *x_TD, *normed_TD, *down_TN, *heads_TN, *hidden_NF, *router_TE;  // rows are STRIP numbers or multiples wide
    int64_t d_x, d_down, d_heads, d_router;                                // their widths
    Packed in, hidden;  // rows for weights; those within feed-forwards are as wide as the feed-forward at hand
    Packed queries;     // [T, H] rows for keys
    float *queries_TN, *mapped_TN;  // MLA: queries from their latent; heads mapped to latents and back
    Packed latent;                  // of [T, H] heads, to be mapped
    float *weights_N;   // of each pair of token and expert, sorted by expert
    int32_t *tokens_N, *choices_TK, *offsets_E;
    float *choice_weights_TK;
    char *threads;  // working memory of each thread
    int64_t thread_bytes;
    int64_t bytes;
};

// Calls work(task, thread) for every task, spread over the threads.
template <typename Work>
void share(int n_threads, int n_tasks, const Work &work) {
    if (n_threads == 1 || n_tasks == 1) {
        for (int task = 0; task < n_tasks; ++task) work(task, 0);
        return;
    }
#pragma omp parallel num_threads(n_threads)
    {
        const int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic)
        for (int task = 0; task < n_tasks; ++task) work(task, thread);
    }
}

constexpr int LEAST_RUN = STREAMS < 2 ? 2 : STREAMS;  // strips

// Calls work(first, n) for runs of strips: all at once on one thread, since memory is read fastest in order.
template <typename Work>
void share_strips(int n_threads, int n_strips, const Work &work) {
    int run = n_threads == 1 ? n_strips : n_strips / (4 * n_threads);
    run = run < LEAST_RUN ? LEAST_RUN : run;
    share(n_threads, (n_strips + run - 1) / run, [&](int task, int) {
        const int first = task * run;
        work(first, n_strips - first < run ? n_strips - first : run);
    });
}

// The products of rows with a whole matrix: calls each(row, strip, outputs[STRIP]).
template <typename Each>
void multiply_all(const Model &model, const Matrix &matrix, const Rows &rows, int n_rows, const Each &each) {
    share_strips(model.n_threads, matrix.strips(), [&](int first, int n) { for_outputs(matrix, first, n, rows, n_rows, each); });
}

// Calls each(part, row) for every new token; the tokens of one block follow each other on one thread.
template <typename Each>
void share_blocks(int n_threads, const Step &step, const Each &each) {
    const auto n_blocks = [](const Part &part) { return (part.past + part.n - 1) / BLOCK - part.past / BLOCK + 1; };
    int n_tasks = 0;
    for (int p = 0; p < step.n_parts; ++p) n_tasks += n_blocks(step.parts[p]);
    share(n_threads, n_tasks, [&](int task, int) {
        const Part *part = step.parts;
        for (; task >= n_blocks(*part); ++part) task -= n_blocks(*part);
        const int start = (part->past / BLOCK + task) * BLOCK - part->past;
        for (int row = start < 0 ? 0 : start; row < start + BLOCK && row < part->n; ++row) each(*part, row);
    });
}

}  // namespace serve
