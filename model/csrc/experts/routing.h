// The rows of each expert.

#pragma once

#include "panels.h"
#include "scratch.h"

namespace experts {

using namespace tiles;
using namespace scratch;

// Sizes and arrays of one call. Arrays are whole and in C order; what is not wanted is null.
struct Call {
    int64_t tokens, choices, d, f, experts, threads;
    int64_t few;           // rows per expert up to which columns are read in place
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

}  // namespace experts
