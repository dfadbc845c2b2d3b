// Attention of new tokens over keys and values in numbered blocks: queries times keys, softmax, times values.
//
// A task is up to 12 rows of (token, query head) that look at one key/value head of one sequence. Keys and values of a
// block are packed like weights, so both products are those of serving/products.h. Blocks start at multiples of 16 tokens
// and what a query may not see has probability zero: a row's result is the same in a whole prompt, in a chunk of it and
// alone. Two passes, so memory grows with the keys; no tile of scores is ever larger than 12 rows.

#pragma once

#include "serving/rows.h"

namespace serve {

// One key/value head of a block.
struct Head {
    int64_t keys_bytes, bytes;  // of the keys; of keys and values
    int64_t panel_bytes;        // of 16 columns of the values
    int group;
    explicit Head(const Model &model) {
        group = group_of(model.cache_kind);
        const int number_bytes = model.cache_kind == FP32 ? 4 : 2;
        panel_bytes = BLOCK * HALF * number_bytes;
        keys_bytes = up_to(model.d_key, group) * BLOCK * number_bytes;
        bytes = keys_bytes + up_to(model.d_value, HALF) / HALF * panel_bytes;
    }
    char *at(const Model &model, int layer, int block, int head) const {
        return model.cache + ((static_cast<int64_t>(layer) * model.n_kv_heads + head) * model.n_blocks + block) * bytes;
    }
};

inline int64_t block_bytes(const Model &model) { return Head(model).bytes * model.n_kv_heads; }

// Keys: units of 4 bytes, one or two numbers of a token, in its column. Values: a token's numbers in its row of a panel,
// in bf16 as one half of words whose other half is the token before or behind it.
SERVE_ONCE void keep(const Model &model, int layer, const Part &part, int row, int head, const float *key, const float *value) {
    const Head shape(model);
    const int position = part.past + row, offset = position % BLOCK, n_units = (model.d_key + shape.group - 1) / shape.group;
    char *keys = shape.at(model, layer, part.blocks[position / BLOCK], head), *values = keys + shape.keys_bytes;
    alignas(64) char packed[4 * MOST_WIDTH];
    pack_floats(model.cache_kind, key, model.d_key, packed);
    for (int unit = 0; unit < n_units; ++unit) std::memcpy(keys + (unit * BLOCK + offset) * 4, packed + unit * 4, 4);
    // What an earlier owner left is multiplied with zeros: it has to be finite.
    if (offset == 0) std::memset(values, 0, static_cast<size_t>(shape.bytes - shape.keys_bytes));
    pack_floats(model.cache_kind, value, model.d_value, packed);
    for (int column = 0; column < model.d_value; column += HALF, values += shape.panel_bytes) {
        if (model.cache_kind == FP32) {
            std::memcpy(values + offset * UNIT, packed + column * 4, UNIT);
            continue;
        }
        lanes::bf16 *to = reinterpret_cast<lanes::bf16 *>(values + offset / 2 * UNIT) + offset % 2;
        const lanes::bf16 *from = reinterpret_cast<const lanes::bf16 *>(packed) + column;
#pragma omp simd
        for (int i = 0; i < HALF; ++i) to[2 * i] = from[i];
    }
}

// The rows of a task, of a part's rows (token, query head of the group).
struct Task {
    const Part *part;
    int head, first, n;
};

// Working memory of a thread.
struct Scratch {
    float *scores;              // [TILE_ROWS][span]
    char *weights;              // the same as the values' rows
    const char **heads, **values;  // of each block: its keys and values, the values of one panel
    int64_t span;
    Scratch(char *memory, int64_t most_keys) {
        span = up_to(most_keys + BLOCK, STRIP);
        scores = reinterpret_cast<float *>(memory);
        weights = memory + TILE_ROWS * span * 4;
        heads = reinterpret_cast<const char **>(weights + TILE_ROWS * span * 4);
        values = heads + span / BLOCK;
    }
    static int64_t bytes(int64_t most_keys) {
        const int64_t span = up_to(most_keys + BLOCK, STRIP);
        return TILE_ROWS * span * 8 + span / BLOCK * 16;
    }
};

inline int64_t attention_bytes(int64_t most_keys) { return Scratch::bytes(most_keys); }

// e^(score - largest) in [first, end), zeros elsewhere in [0, n); as rows of `kind`; returns the sum of what was written.
SERVE_ONCE float weigh(int32_t kind, const float *scores, float scale, int first, int end, int64_t n, char *to) {
    using lanes::Ints;
    const Floats least = lanes::all(-INFINITY);
    Ints places;
    for (int lane = 0; lane < LANES; ++lane) places[lane] = lane;
    const auto seen = [&](int64_t i) {
        const Ints at = places + static_cast<int32_t>(i);
        return (at >= first) & (at < end);
    };
    Floats largest_of = least, sums = lanes::zeros();
    for (int64_t i = 0; i < n; i += LANES) largest_of = lanes::most(seen(i) ? lanes::load(scores + i) : least, largest_of);
    const float largest = lanes::largest(largest_of);
    for (int64_t i = 0; i < n; i += LANES) {
        const Floats weights = lanes::exponential((lanes::load(scores + i) - largest) * scale);
        sums += put_floats(kind, seen(i) ? weights : lanes::zeros(), to, i);
    }
    return lanes::sum(sums);
}

inline void attend_rows(
    const Model &model, int layer, const Task &task, const Memory &memory, char *thread_memory, int64_t most_keys) {
    const Head shape(model);
    const Scratch scratch(thread_memory, most_keys);
    const int per_group = model.n_heads / model.n_kv_heads;
    const Part &part = *task.part;
    const int window = model.layers[layer].attention.window;
    const float scale = model.layers[layer].attention.scale;
    const int last_position = part.past + (task.first + task.n - 1) / per_group;
    const auto first_key = [&](int position) { return window && position >= window ? position - window + 1 : 0; };
    const int first_block = first_key(part.past + task.first / per_group) / BLOCK;
    const int n_blocks = last_position / BLOCK - first_block + 1;
    const char *rows[TILE_ROWS];
    for (int i = 0; i < task.n; ++i) {
        const int row = task.first + i, query = task.head * per_group + row % per_group;
        rows[i] = memory.queries.row((part.first + row / per_group) * static_cast<int64_t>(model.n_heads) + query);
    }
    for (int b = 0; b < n_blocks; ++b) scratch.heads[b] = shape.at(model, layer, part.blocks[first_block + b], task.head);

    // Neighbouring blocks of a sequence are mostly neighbours in memory too.
    Tile tile;
    for (int b = 0; b < n_blocks; b += 2) {
        const int64_t second = b + 1 < n_blocks ? scratch.heads[b + 1] - scratch.heads[b] : 0;
        const int steps = (model.d_key + shape.group - 1) / shape.group;
        const Panel panel = {scratch.heads + b, 1, steps, second, UNIT, 2 * shape.bytes, nullptr, 0};
        for (int64_t at = shape.keys_bytes; at < shape.bytes; at += UNIT) {  // the values are wanted soon
            __builtin_prefetch(scratch.heads[b] + at, 0, 2);
            __builtin_prefetch(scratch.heads[b] + second + at, 0, 2);
        }
        multiply(model.cache_kind, rows, task.n, panel, tile);
        for (int i = 0; i < task.n; ++i) std::memcpy(scratch.scores + i * scratch.span + b * BLOCK, tile[i], sizeof tile[i]);
    }
    float sums[TILE_ROWS];
    const int64_t weights_bytes = row_bytes(model.cache_kind, scratch.span);
    for (int i = 0; i < task.n; ++i) {
        const int position = part.past + (task.first + i) / per_group, base = first_block * BLOCK;
        rows[i] = scratch.weights + i * weights_bytes;
        const int first = first_key(position) - base, end = position + 1 - base;
        char *to = scratch.weights + i * weights_bytes;
        sums[i] = weigh(model.cache_kind, scratch.scores + i * scratch.span, scale, first, end, n_blocks * BLOCK, to);
    }
    for (int column = 0; column < model.d_value; column += STRIP) {
        const int64_t behind = shape.keys_bytes + column / HALF * shape.panel_bytes;
        for (int b = 0; b < n_blocks; ++b) scratch.values[b] = scratch.heads[b] + behind;
        const int64_t second = column + HALF < model.d_value ? shape.panel_bytes : 0;
        const Panel panel = {scratch.values, n_blocks, BLOCK / shape.group, second, UNIT, 2 * shape.bytes, nullptr, 0};
        multiply(model.cache_kind, rows, task.n, panel, tile);
        for (int i = 0; i < task.n; ++i) {
            const int row = task.first + i, query = task.head * per_group + row % per_group;
            float *to = memory.heads_TN + (part.first + row / per_group) * memory.d_heads + query * model.d_value + column;
            const int n_columns = in_strip(model.d_value, column / STRIP);
            const float share = 1.0f / sums[i];
            for (int c = 0; c < n_columns; ++c) to[c] = tile[i][c] * share;
        }
    }
}

inline void attend(const Model &model, int layer, const Step &step, const Memory &memory) {
    const int per_group = model.n_heads / model.n_kv_heads;
    int n_tasks = 0;
    for (int p = 0; p < step.n_parts; ++p) n_tasks += (step.parts[p].n * per_group + TILE_ROWS - 1) / TILE_ROWS;
    n_tasks *= model.n_kv_heads;
    share(model.n_threads, n_tasks, [&](int index, int thread) {
        int tile = index / model.n_kv_heads, p = 0;
        for (;; ++p) {
            const int n_tiles = (step.parts[p].n * per_group + TILE_ROWS - 1) / TILE_ROWS;
            if (tile < n_tiles) break;
            tile -= n_tiles;
        }
        const Part &part = step.parts[p];
        const int first = tile * TILE_ROWS, left = part.n * per_group - first;
        const Task task = {&part, index % model.n_kv_heads, first, left < TILE_ROWS ? left : TILE_ROWS};
        attend_rows(model, layer, task, memory, memory.threads + thread * memory.thread_bytes, step.most_keys);
    });
}

}  // namespace serve
