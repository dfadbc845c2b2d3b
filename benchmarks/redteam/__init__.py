"""Attacks the judge with real patches: `python -m benchmarks.redteam [--json] [--quick] [NAME...]`.

Cheats are `tests/acceptance/cheats/NN-name.diff`, honest patches `tests/acceptance/honest/NN-name.diff`. Each is a real
unified diff below a header of comment lines, which is taken off before the text goes to the judge. NN numbers the
patches of a folder; a name is unique without its number.

    # class: 5 caching                      number and name of the class; "honest" and what it is for honest patches
    # suite: moe_forward tiny               suite and preset that judge it; the preset is `tiny` where it is left out
    # naive: same_inputs                    the naive harness that it must beat (cheats only)
    # wins-by: answers by the input's id    what that harness falls for (cheats only)
    # expect: no_gain, regression           verdicts that are right for it; see below
    # seam: model/layers/__init__.py        the file and the name that it hooks into
    # why: every timed call has another input, so nothing is ever found in the cache
    diff --git a/model/...

A line without a key continues the one above (`#   and more words`). Other keys: `base` (a diff below the repository that
makes the base tree of the shipped one, as `examples/base/textbook_moe.diff`; the shipped tree where it is left out),
`paid` (with `base`: the millionths of a nat that were paid for it over the tree before it, which a confirmation then times
as the old one), `old` (with `paid`: a diff that makes that tree of the shipped one; the shipped tree where it is left out)
and `pad` (`model/layers/padding.py 300000`: a new file of so many bytes of comments is added when the
patch is read, so that no huge diff has to be kept). No key comes twice, none is unknown. Bases that cheat are in
`tests/acceptance/bases/`.

`expect` is a set of `benchmarks.judging.verdicts.VerdictKind` values without `gain` for cheats: what the judge says, or
`patch_rejected` (the text cannot be read or applied) and `policy_violation` (it touches what it may not) when the patch
is refused before anything runs. An honest patch expects what the judge measures (`gain`, `no_gain`, `regression`);
`wrong_output policy_violation suspicious patch_rejected` are never right for it.

**Positive control.** A refusal proves something only if the cheat works where the judge's rules are missing. So each
cheat must win at least 2x in a naive harness, measured on the same machine: `benchmarks/redteam/harnesses/NAME.py`, one
program per file, run whole inside one sandbox with generous rights. It finds the trees at `/base/model` and
`/candidate/model`, this folder at `/harness`, its own folder `/work` writable, and prints as its last line
`{"ratio": base time / candidate time as it believes, "note": "what it saw"}`; a harness that refuses the candidate prints
a ratio of 0. Those there are:

    same_inputs     times calls on one input with time.perf_counter in the stack's own process, set-up and warm-up untimed;
                    compares the first answer there with base's by torch.allclose
    max_difference  the same, but refuses only where max |difference| > tolerance, which no NaN does
    fresh_inputs    the same with another input for every call; only the first answer is compared
    engine_steps    times repeated steps of one sequence by the executor that the tree serves a model with; compares
                    the first logits by torch.allclose
    message_of_steps  times steps of many sequences, one after the other, all of which are in the caller's frames at once
    loads_again     times loads of one checkpoint, again and again in one process
    process_memory  scores memory by what a process has of its own, files in /tmp left out
    step_count      scores serving by the number of steps, whatever is in a step
    verdict_file    the timing process leaves result.json in its folder; the scorer believes the file it finds at the end
    printed         the timing process prints its result; the scorer believes the first line that is one
    interleaved     base and candidate are two live processes under one user whose calls alternate; the scorer's own
                    clock; neither frozen nor pinned
    stopped         the same, with the idle one's processes stopped by SIGSTOP, as far as they let themselves be stopped
    one_process     base and candidate are loaded into one interpreter and timed by turns
    until_it_ends   times forked trials of inputs of several sizes; one that crashed is started again with another size
    not_its_fault   the same, where the stack may not crash, but trials at whose result the harness fails are left out
    shared_memory   as `same_inputs`, but the answer comes in a mapped file, and a checker that crashes calls nothing wrong
    train_steps     times the trainer's steps over a list of batches; compares the last loss
    checkout        `git apply`, else `patch -p1`, else twenty lines of Python apply the diff to a checkout (model, benchmarks,
                    tests/model); then the tests *of that checkout*, then calls on one input in a process started there
    checkout_policy     the same, where each `+++` line must name a path that that checkout's policy allows
    checkout_tolerance  the same with the judge's tolerance, as that checkout states it, instead of the tests

`python -m benchmarks.redteam check` names the patches of both folders and of `examples/` that no longer apply;
`python -m benchmarks.redteam recut NAME` cuts one again. This package knows the judge only by `benchmarks.judging.judge.judge`.
"""
