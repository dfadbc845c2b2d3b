// Choice of a token's experts, as model/layers/moe/router.py defines it: softmax or sigmoid gates, a bias of the choice,
// group-limited choice, normalised and scaled weights. Ties go to the expert with the lower number.

#pragma once

#include <cmath>

#include "serving/model.h"

namespace serve {

constexpr float BARRED = -INFINITY;

// The place of the largest of n numbers that is not taken; NaN is larger than all, as in torch.
inline int best(const float *values, const char *taken, int n) {
    int found = -1;
    const auto is_nan = [&](int i) { return values[i] != values[i]; };
    for (int i = 0; i < n; ++i) {
        if (taken[i]) continue;
        if (found < 0 || values[i] > values[found] || (is_nan(i) && !is_nan(found))) found = i;
    }
    return found;
}

inline void gate(const Router &router, float *scores_E) {
    const int n = router.weight.n;
    if (router.is_sigmoid) {
        for (int e = 0; e < n; ++e) scores_E[e] = 1.0f / (1.0f + std::exp(-scores_E[e]));
        return;
    }
    float largest = scores_E[0], sum = 0;
    for (int e = 1; e < n; ++e) largest = scores_E[e] > largest ? scores_E[e] : largest;
    for (int e = 0; e < n; ++e) sum += scores_E[e] = std::exp(scores_E[e] - largest);
    for (int e = 0; e < n; ++e) scores_E[e] /= sum;
}

// Bars the experts outside the best groups.
inline void bar_groups(const Router &router, float *chosen_by_E, char *barred_E) {
    const int n = router.weight.n, size = n / router.n_groups;
    float scores_M[MOST_EXPERTS];
    char taken_M[MOST_EXPERTS] = {0};
    for (int m = 0; m < router.n_groups; ++m) {
        const float *group = chosen_by_E + m * size;
        float first = group[0], second = BARRED;
        for (int e = 1; e < size; ++e) {
            if (group[e] > first) second = first, first = group[e];
            else if (group[e] > second) second = group[e];
        }
        scores_M[m] = router.sums_two ? first + second : first;
    }
    for (int i = 0; i < router.top_groups; ++i) taken_M[best(scores_M, taken_M, router.n_groups)] = 1;
    for (int e = 0; e < n; ++e) barred_E[e] = !taken_M[e / size];
}

inline void choose(const Router &router, float *scores_E, int32_t *experts_K, float *weights_K) {
    const int n = router.weight.n;
    float chosen_by_E[MOST_EXPERTS];
    char taken_E[MOST_EXPERTS] = {0};
    gate(router, scores_E);
    for (int e = 0; e < n; ++e) chosen_by_E[e] = scores_E[e] + (router.bias ? router.bias[e] : 0.0f);
    if (router.top_groups < router.n_groups) bar_groups(router, chosen_by_E, taken_E);
    float sum = 0;
    for (int k = 0; k < router.top_k; ++k) {
        const int expert = best(chosen_by_E, taken_E, n);
        taken_E[expert] = 1;
        experts_K[k] = expert;
        sum += weights_K[k] = scores_E[expert];
    }
    const float guard = router.is_sigmoid ? 1e-20f : 0.0f;
    const float factor = router.scale / (router.normalises ? sum + guard : 1.0f);
    for (int k = 0; k < router.top_k; ++k) weights_K[k] *= factor;
}

}  // namespace serve
