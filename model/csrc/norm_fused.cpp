// Rows normed by their root mean square and turned by their position, forward and backward, for `model/layers/norm_fused.py`.
//
// Either may be left out. Everything is computed in fp32 and rounded once, to the output's format. Rows are computed in
// blocks whose weights' gradients are summed one after the other: results do not depend on the number of threads.

#include <cmath>

#include "lanes.h"
#include "scratch.h"

namespace norm {

using namespace lanes;

// Arrays are whole and in C order; what is not wanted is null.
struct Call {
    int64_t rows, width;
    int64_t heads, positions;  // row i has position i / heads % positions
    int64_t threads;
    double eps;
    const void *x;             // [rows, width]
    const float *weight;       // [width], null: rows are not normed
    const float *cos, *sin;    // [positions, width], null: rows are not turned
    void *y;                   // [rows, width]
    const void *grad_y;        // in y's format
    void *grad_x;              // in x's format
    float *grad_weight;
    int64_t position(int64_t row) const { return row / heads % positions; }
};

constexpr int64_t BLOCK = 64;  // rows

// One over the root of a row's mean square.
template <typename T>
float scale_of(const Call &call, const T *x) {
    Floats squares = zeros();
    for_vectors(call.width, [&](int64_t i, int64_t n) {
        const Floats numbers = load(x + i, n);
        squares += numbers * numbers;
    });
    return 1 / std::sqrt(sum(squares) / static_cast<float>(call.width) + static_cast<float>(call.eps));
}

// from[i] and from[i + half] are a pair; `direction` -1 turns back.
template <typename From, typename To>
void turn(const Call &call, int64_t row, float direction, const From *from, To *to) {
    const int64_t half = call.width / 2, at = call.position(row) * call.width;
    const float *cos = call.cos + at, *sin = call.sin + at;
    for_vectors(half, [&](int64_t i, int64_t n) {
        const Floats first = load(from + i, n), second = load(from + half + i, n);
        // Backward the other one's sine counts: the two need not be the same number.
        const int64_t of_first = direction > 0 ? i : half + i, of_second = direction > 0 ? half + i : i;
        store(to + i, first * load(cos + i, n) - direction * second * load(sin + of_first, n), n);
        store(to + half + i, second * load(cos + half + i, n) + direction * first * load(sin + of_second, n), n);
    });
}

template <typename X, typename Y>
void forward_row(const Call &call, int64_t row, float *own) {
    const X *x = static_cast<const X *>(call.x) + row * call.width;
    Y *y = static_cast<Y *>(call.y) + row * call.width;
    if (!call.weight) return turn(call, row, 1, x, y);
    const float scale = scale_of(call, x);
    const auto normed = [&](int64_t i, int64_t n) { return load(x + i, n) * scale * load(call.weight + i, n); };
    if (!call.cos) return for_vectors(call.width, [&](int64_t i, int64_t n) { store(y + i, normed(i, n), n); });
    for_vectors(call.width, [&](int64_t i, int64_t n) { store(own + i, normed(i, n), n); });
    turn(call, row, 1, own, y);
}

// With n = scale * x and g = weight * grad: grad_x = scale * (g - n * mean(g * n)), and grad * n for the weight.
template <typename X, typename G>
void norm_backward(const Call &call, const X *x, const G *grad, X *grad_x, float *grad_weight) {
    const float scale = scale_of(call, x);
    Floats products = zeros();
    for_vectors(call.width, [&](int64_t i, int64_t n) {
        const Floats to_weight = load(grad + i, n) * load(x + i, n) * scale;
        products += to_weight * load(call.weight + i, n);
        store(grad_weight + i, load(grad_weight + i, n) + to_weight, n);
    });
    const float mean = sum(products) / static_cast<float>(call.width);
    for_vectors(call.width, [&](int64_t i, int64_t n) {
        const Floats normed = load(x + i, n) * scale;
        store(grad_x + i, scale * (load(grad + i, n) * load(call.weight + i, n) - normed * mean), n);
    });
}

template <typename X, typename Y>
void backward_row(const Call &call, int64_t row, float *own, float *grad_weight) {
    const int64_t at = row * call.width;
    const X *x = static_cast<const X *>(call.x) + at;
    X *grad_x = static_cast<X *>(call.grad_x) + at;
    const Y *grad_y = static_cast<const Y *>(call.grad_y) + at;
    if (!call.weight) return turn(call, row, -1, grad_y, grad_x);
    if (!call.cos) return norm_backward(call, x, grad_y, grad_x, grad_weight);
    turn(call, row, -1, grad_y, own);
    norm_backward(call, x, own, grad_x, grad_weight);
}

// Calls task(row, a row of memory, the block's sums [width], which begin with zeros), then adds the blocks' up where they are
// wanted. 0, or 2 without memory.
template <typename Task>
int for_rows(const Call &call, const Task &task) {
    const int64_t blocks = (call.rows + BLOCK - 1) / BLOCK, stride = scratch::aligned(call.width * 4) / 4;
    const scratch::Memory memory((call.threads + (call.grad_weight ? blocks : 0)) * stride * 4);
    if (!memory.data) return 2;
    float *own = memory.at<float>(0), *sums = own + call.threads * stride;
    const int threads = static_cast<int>(call.threads);
#pragma omp parallel for num_threads(threads)
    for (int64_t block = 0; block < blocks; ++block) {
        float *sum_of = call.grad_weight ? sums + block * stride : nullptr;
        if (sum_of) std::memset(sum_of, 0, static_cast<size_t>(call.width) * sizeof(float));
        const int64_t end = (block + 1) * BLOCK < call.rows ? (block + 1) * BLOCK : call.rows;
        for (int64_t row = block * BLOCK; row < end; ++row) task(row, own + scratch::thread_number() * stride, sum_of);
    }
    if (!call.grad_weight) return 0;
    std::memset(call.grad_weight, 0, static_cast<size_t>(call.width) * sizeof(float));
    for (int64_t block = 0; block < blocks; ++block)
        for (int64_t i = 0; i < call.width; ++i) call.grad_weight[i] += sums[block * stride + i];
    return 0;
}

template <typename X, typename Y>
int forward(const Call &call) {
    return for_rows(call, [&](int64_t row, float *own, float *) { forward_row<X, Y>(call, row, own); });
}

template <typename X, typename Y>
int backward(const Call &call) {
    return for_rows(call, [&](int64_t row, float *own, float *sums) { backward_row<X, Y>(call, row, own, sums); });
}

}  // namespace norm

// Both take which of x and y are bf16, the others are fp32, and return 0, or 2 without memory.
LANES_EXPORT int norm_fused_forward(const norm::Call *call, int is_x_bf16, int is_y_bf16) {
    using namespace norm;
    if (is_x_bf16) return is_y_bf16 ? forward<bf16, bf16>(*call) : forward<bf16, float>(*call);
    return is_y_bf16 ? forward<float, bf16>(*call) : forward<float, float>(*call);
}

LANES_EXPORT int norm_fused_backward(const norm::Call *call, int is_x_bf16, int is_y_bf16) {
    using namespace norm;
    if (is_x_bf16) return is_y_bf16 ? backward<bf16, bf16>(*call) : backward<bf16, float>(*call);
    return is_y_bf16 ? backward<float, bf16>(*call) : backward<float, float>(*call);
}
