"""Secrets that stand in the file are refused, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inventories import VALID, said, with_node

from llmfleet.planner.inventory.secrets import is_secret

HUB = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
NAMES = """
HF_TOKEN HUGGING_FACE_HUB_TOKEN hf_token hfToken TOKEN AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN OPENAI_API_KEY
api_key apiKey APIKEY VLLM_API_KEY WANDB_API_KEY PASSWORD PGPASSWORD MYSQL_PWD DB_PASSWD CLIENT_SECRET
client_secret_2 SSH_PRIVATE_KEY AZURE_STORAGE_KEY REDIS_CREDENTIALS AZURE_STORAGE_CONNECTION_STRING
MINIO_SECRET_KEY TOKEN_1 KEY_PASSPHRASE SECRET_VALUE
"""
# Of vLLM, PyTorch, NCCL, Ray, Hugging Face and others: with such words in them, and what one sets them to
HARMLESS = """
TOKENIZERS_PARALLELISM=false VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE=163840 MAX_NUM_BATCHED_TOKENS=8192
HF_HUB_DISABLE_IMPLICIT_TOKEN=1 HF_TOKEN_PATH=/secret/file AWS_SHARED_CREDENTIALS_FILE=/home/ops/.aws
GOOGLE_APPLICATION_CREDENTIALS=/etc/gcp.json PASSWORD_STORE_DIR=~/.store PWD=here OLDPWD=x
AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE EOS_TOKEN=<|im_end|> PAD_TOKEN=0 MAX_TOKEN=131072 HF_HUB_OFFLINE=1
NCCL_SOCKET_IFNAME=eth0 KEYBOARD=us VLLM_KEEP_ALIVE_ON_ENGINE_DEATH=1 HF_HUB_ENABLE_HF_TRANSFER=hf_transfer
CUDA_VISIBLE_DEVICES=0,1 HTTPS_PROXY=http://proxy:3128 HF_ENDPOINT=https://hf-mirror.com
PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True SECRETARY=me
LD_LIBRARY_PATH=/opt/task-runner-with-a-long-name/lib NO_PROXY=a@b,c TOKEN= HF_TOKEN=/x
MODEL=risk-assessment-of-long-documents-v2 VLLM_TOKEN_BUDGET=2k KEY=value NUM_KEYS=4
"""
VALUES = [
    HUB, "Bearer " + HUB, "sk-proj-abcdefghijklmnop1234", "sk-ant-" + "a1b2" * 6, "ghp_" + "a1" * 18,
    "github_pat_" + "a_" * 20, "glpat-abcdefghijklmnopqrst", "nvapi-" + "x-" * 20, "xoxb-1234567890-abc",
    "AIza" + "b" * 35, "ms-01234567-89ab-cdef-0123-456789abcdef", "eyJhbGciOiJI.eyJzdWIiOiIx.c2ln",
    "-----BEGIN OPENSSH PRIVATE KEY-----", "http://me:pass@proxy:3128", "redis://:pass@cache:6379/0",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES.split())
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name, "x7Gk")


@pytest.mark.parametrize("value", VALUES)
def test_values_that_are_secrets_whatever_they_are_called(value: str) -> None:
    assert is_secret("SOMETHING", value)


@pytest.mark.parametrize("variable", HARMLESS.split())
def test_what_is_none(variable: str) -> None:
    name, _, value = variable.partition("=")
    assert not is_secret(name, value)


@given(st.sampled_from(NAMES.split()), st.sampled_from(["FILE", "PATH", "DIR", "ID", "NAME", "ENV", "TTL"]))
def test_words_about_a_secret_are_none(name: str, word: str) -> None:
    assert not is_secret(f"{name}_{word}", "x7Gk")


@given(st.text(max_size=80), st.text(max_size=200))
def test_a_token_is_found_in_any_text(name: str, value: str) -> None:
    assert is_secret(name, f"{value} hf_{'x7Gk' * 6}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{env: {HF_TOKEN: x7Gk}}", "9:17  runtime.env.HF_TOKEN: looks like a secret, which would get into plan,"),
        ("{env: {HF_TOKEN: x7Gk}}", "`download: {token_env: HF_TOKEN}` takes it from your environment"),
        ("{env: {VLLM_API_KEY: x7Gk}}", "`engine_key_env: NAME` gives engines and router the key"),
        ("{env: {AWS_SECRET_ACCESS_KEY: x7Gk}}", "Put it into a file on the node"),
        (f"{{env: {{A: 1, B: {HUB}}}}}", "9:23  runtime.env.B: looks like a secret"),
    ],
)
def test_it_is_said_where_it_stands_and_what_to_do(line: str, expected: str) -> None:
    (problem,) = said(VALID + f"runtime: {line}\n")
    assert expected in problem
    assert "x7Gk" not in problem and HUB not in problem


def test_of_a_node_too() -> None:
    (problem,) = said(with_node("{name: x, host: x, runtime: {env: {api_key: x7Gk, TOKENIZERS_PARALLELISM: 1}}}"))
    assert "nodes[2].runtime.env.api_key: looks like a secret" in problem


@pytest.mark.parametrize(
    ("text", "where", "like"),
    [
        (f"download: {{token_env: {HUB}}}", "download.token_env", "token_env: FLEET_TOKEN"),
        ("engine_key_env: sk-abcdefghijklmnop1234", "engine_key_env", "engine_key_env: FLEET_ENGINE_KEY"),
        (f"access: {{password_env: {HUB}}}", "access.password_env", "password_env: FLEET_PASSWORD"),
    ],
)
def test_a_secret_in_place_of_a_name_is_not_repeated(text: str, where: str, like: str) -> None:
    (problem,) = said(f"{VALID}{text}\n")
    assert f"{where}: is a secret itself" in problem
    assert like in problem
    assert HUB not in problem and "sk-" not in problem
