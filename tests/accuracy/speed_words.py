"""What the page says of speed."""

WORDS = """\
`tests/data/accuracy/speed.jsonl` has {count} benchmark runs of single instances, each with where it was published.
{judged} of them are judged: runs of vLLM under a stated load (so many clients that each wait for their answer, or so
many requests a second), predicted with the stated release, precision, shape and limits and nothing else, as
`llmfleet estimate --concurrency | --request-rate` does.

Not judged are {odd} odd runs, each with its reason in the table (a limit that is not stated, lengths that cannot have
been the stated ones, speculative decoding, images, several replicas), {bursts} that send all requests at once, whose
TTFT is the place in the queue, and {others} of other engines. They are listed below where they can be predicted at all.

What the figures are. TPOT: the mean over the requests of a run (the median where only that was published). Output
tokens/s: over the whole run, start and end included. TTFT: the median where it was published; the largest set, NVIDIA's
`silicon_sample.csv`, does not say which statistic it gives and is judged apart. Efficiencies of GPU classes and the
constants of `planner/speed/hardware.py` are fitted to these same runs, 17 constants and two numbers a class for
{judged} runs; what that is worth elsewhere is what the next tables are for.

### Targets

{targets}

![TPOT](validation-tpot.svg) ![Output tokens/s](validation-tokens.svg) ![TTFT](validation-ttft.svg)

### A GPU that nobody measured

Mean error of TPOT. *Known*: with the efficiency that the catalogue has for the class. *Unknown*: with the middle of
what all other measured classes reach, as a class gets that was never measured (the constants that all classes share
stay as they are). *+ 1 point*: with one run of that class in `calibration.yaml`, the middle one of the model with most
runs, which then is not counted; first for the known, then for the unknown class.

Dense models:

{dense}

Mixture of experts:

{moe}

### Runs that came after the model

`tests/data/accuracy/speed_held_out.jsonl` has {fresh_count} runs that were collected when the model was finished, from
sources that it had not seen: other models, other cards, other releases. *Untouched* is what it said of them before
anything was mended (kept in the table, row by row); *now* is not held out any more. A group that grows is one of models
that were not in the catalogue then. {fresh_odd} runs are odd, each with its reason in the table: prompts that were read
faster than the cards' arithmetic allows (cached before), a GPU or an option that no flag states.

{fresh}

Mended of these: all-reduces over PCIe. Not understood, or told by no flag: TTFT of clients in a loop. With few
requests a client and answers of one length, prompts come all at once, wave by wave, and what is measured then is
about the time of all prompts at once (1.1 times in the median of 43 runs); the largest set of the first table has a
third of that. The figure that is printed lies between. The rig with four RTX 3090 runs them at 220 W on PCIe 3.0; on
B200 a hybrid model's first tokens come far later than its work takes; and requests at a rate near what two H200
machines can do differ by 40 % between their hosts.

What lies furthest off of these:

| run | shape | tokens | load | TPOT predicted | measured | |
|---|---|---|---|---|---|---|
{fresh_worst}

### By group, mean error

Bias: on average too slow (+) or too fast (−); for tokens/s, too many or too few.

{tables}

### Not judged

{beyond}

### What lies furthest off

| run | shape | tokens | load | TPOT predicted | measured | |
|---|---|---|---|---|---|---|
{worst}
"""
