"""What the page says of memory."""

WORDS = """\
`tests/data/accuracy/startups.jsonl` has {count} start-ups of vLLM; {best} of them are of the first table and come with
everything that matters: GPU, shape, flags, version. Each row names where it was found.

What is arithmetic, and should be exact: weights of each rank (every tensor by its sharding rule, then what torch's
allocator makes of it), bytes of a KV block, blocks, tokens and concurrency from bytes. What is estimated: activations,
communication buffers, CUDA graphs, and so the bytes that are left for the KV cache.

A log without a version is taken for 0.7.3 if it is of the old engine (V0), else for 0.11.0. Whether a start-up failed
is taken from its log where that says so, and for V0 from a cache smaller than the longest request.

### Targets

{targets}

**Tokens from bytes.** vLLM counts the fewest blocks of all ranks; its log prints the bytes of one of them
(`gpu_worker.py` logs on the first rank of each node, `kv_cache_utils.py` takes the minimum). So the bytes that tokens
follow from are in the log of a start-up on one GPU, and there the two must agree. On several GPUs the printed bytes
are an upper bound: there tokens must not exceed what the bytes give, and nothing in the log says how far below they
may lie. Which rule holds depends on the number of GPUs alone. What can be checked on any number of GPUs is the rest of
the arithmetic, from the printed tokens to the printed concurrency: it needs no bytes.

The target's own words make no difference between one GPU and several. Read so, with the printed bytes for every
rank's, it is **missed**, and `make accuracy` ends with an error for it: {near_several} of {several}
start-ups on several GPUs are within 0.1 %, and no arithmetic does better with bytes that were not logged. The others
have fewer tokens than the printed bytes give. Of a start-up with V0 on two RTX 4090 the
log shows why: its line is of a rank that does not sample, with activations of 0.19 GiB (the first rank needs 1.2 GiB
more for the sampler, and with these the printed tokens follow). Three are of two R9700 cards, on which ten other
start-ups by the same builds come out exactly. One is of eight cards with a vendor's own build.

**Weights on AMD.** Until some release before 0.32 vLLM's "Model loading took" is there not what tensors take, but what
the device has less of after loading: whole segments of the allocator, what temporary tensors leave in them (RoPE
tables are made in 32 bits, integer experts are transposed), and the device's libraries, 70 MiB on RDNA 4 and 22 MiB on
MI300X (each figure from logs). `gpt-oss` on two cards lies 2.6 % off: what its loading leaves there is not understood.

**A second table** came later: the other {second_count} start-ups of the repository that some rows of the first are
from, all of them. The NVIDIA rows were not looked at while the model was made; those on AMD served to understand AMD's
figures.

{second}

**A third table**, `tests/data/accuracy/startups_held_out.jsonl`: {held_out_count} start-ups that were
collected after all of this, from other sources, other models and GPUs. *Untouched*
is what the model said of them before anything was mended (and is
kept in the table, row by row); *now* is not held out any more.

{held_out}

Mended by mechanism, each from the engine's source or what it prints, none by a constant: a request of a model with
recurrent layers holds one more state where prefix caching is asked for (`--enable-prefix-caching`); the wording of
"GPU KV cache size" changed with 0.21 and CUDA graphs count since 0.20, one release later and earlier than was thought;
0.8 prints tokens over length as concurrency; Qwen3's experts have embedding and head on every pipeline stage; a GB10
gets the small batch defaults, because NVML does not tell its memory; whole experts (`--ep`) need not divide by TP. One
GPU and five models were not in the catalogue.
Of Llama 3.1 405B the checkpoint of the day is compared: it had each KV head twice. Not understood: Qwen3-32B on RTX
PRO 6000 with 0.27, whose overhead is 1.7 GiB with TP 2 and 3.9 GiB with TP 1 (predicted 3.9 with both);
`gpt-oss-120b` on H100, where one build of 0.10 took Marlin's layout and one of 0.14 Triton's, while others of these
releases took the other one; GB10's KV bytes, which depend on what else its shared memory holds. Not told by any flag:
whether FlashInfer samples before 0.17, which it does where it is installed; with it 1 GiB more is left (the six A100
logs of 0.10.1), and a low `--gpu-memory-utilization` makes much of that. On WSL2 0.26 did not take its CUDA graphs
off. Many logs do not name their GPU: of those only weights and arithmetic are compared.

**A fourth table**, `tests/data/accuracy/startups_fresh.jsonl`: {fresh_count} start-ups of vLLM 0.6 to 0.31 that came
after the third one, none of a source that had been looked at before. *Untouched* and *now* are as above.

{fresh}

Mended by mechanism, read in the source of the release but for one figure named below: Qwen3-VL keeps the outputs of
its encoder while its decoder is profiled, until 0.12 those of a video with its time stamps (2.3 GiB), and three
buffers for them beside the weights; Gemma 4 keeps inputs of every layer, and rows for keys and values that its
checkpoint does not have; since 0.17 no GPU sorts logits (it was thought to be FlashInfer's doing, so a V100 was given
too little); buffers of expert layers stay since 0.14 only; Ascend's profiling run ends with the logits, its graphs are
not taken off, its tables of cosines and sines are there three times. Since 0.20 a model with recurrent layers does not
start where CUDA graphs are captured for more sequences than there are blocks: estimates say so, plans ask for no more.
Six models were not in the catalogue; `dots.ocr` and GLM-5.3-Flash still are not. Without a source is what one Ascend
card loses beside torch, 0.03 GiB: it is from the one start-up on a 910B3 here, whose agreement is therefore no
evidence. *Now* has more rows than *untouched*, those of models that came into the catalogue: only *untouched* says how
the model does on new ones.
Not understood: a block-wise FP8 Qwen3.8-27B on an L40S with 16 sequences has 0.6 GiB less than the estimate, with 256
it has as much, and its INT4 sibling on an A100 comes out to 0.01 GiB; GB10 again, 4 and 6 GiB. Two cards with a
Qwen3-VL on H100 take 0.3 GiB more than is known. Not told by the log: whether PyTorch's allocator grows its segments
(`expandable_segments`), with which nothing is rounded up; a Qwen2.5-Coder-7B then has 0.4 % less. The encoder's own
peak is not estimated.

What lies furthest off in the older tables was looked at again with this. Of the V0 start-up of Llama 3 8B on an A100
with 9.4 GiB of activations the issue says that the requests at once were set high, not how high: some 2000 of them
would need this much. Checkpoints in GGUF were compared with the catalogue's weights; now the log's own are taken off
wherever the checkpoint is another. That is another measure and no better model, and a part of what the KV figures of
the first table gained. Which layout `gpt-oss` takes on Hopper hangs on whether `triton_kernels` is
installed, which no flag tells (`mxfp4.py:get_mxfp4_backend`). On R9700 cards one build of 0.11 took 2 to 3 GiB
more for Llama, Qwen3 and `gpt-oss` than the same build with other options and than 0.13, though not for Gemma 3: not
understood, and not in the estimate.

### The same arithmetic against vLLM itself

`tests/data/engine_runs/` holds start-ups of vLLM 0.32 on a CPU with small models of eight families (grouped-query,
latent, mixture of experts, sliding window in three patterns, gated delta net): blocks, tokens and concurrency are
equal to what vLLM printed, and `tests/unit/memory/test_engine_runs.py` keeps them so.
`tests/lab/test_engine_memory.py` starts the engine anew with five families, other sizes and options, and compares with
its own metrics.

### Predicted and measured KV cache of one GPU

![Predicted against measured GiB](validation.svg)

### By group, mean absolute error

{tables}

### What lies furthest off

| start-up | model | GPU | vLLM | part | predicted | logged |
|---|---|---|---|---|---|---|
{worst}
"""
