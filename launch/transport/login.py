"""Proving who we are to a server: exactly what the inventory names, else what ssh itself would try."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.ssh_exception import BadAuthenticationType, PasswordRequiredException, SSHException

from llmfleet.planner.errors import AuthError, DeadlineError
from llmfleet.planner.inventory.model import Access

Attempt = Callable[[paramiko.Transport], list[str]]  # returns what the server still wants, nothing once it is content
Offer = tuple[str, Attempt]  # the first in words

DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


class Login:
    """An authentication strategy in paramiko's sense.

    A key or password that the inventory names is the only thing offered. Without one, ssh_config's identities, the
    agent's keys and the default keys are, as far as they open without a passphrase.
    """

    def __init__(
        self, node: str, user: str, access: Access, identities: Sequence[str] = (), *, identities_only: bool = False
    ) -> None:
        """AuthError when what the inventory names is not there; nothing touches the network yet."""
        self._node, self._user = node, user
        self._identities, self._identities_only = identities, identities_only
        self._named: list[Offer] = []
        if access.key is not None:
            self._named.append(self._key_offer(access.key, self._named_key(access.key)))
        if access.password_env is not None:
            self._named.append(self._password_offer(access.password_env))

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Returns when the server accepted us. AuthError says what was tried."""
        tried: list[str] = []
        for what, attempt in self._named or self._usual(tried):
            tried.append(what + self._try(transport, attempt))
            if transport.is_authenticated():
                return
            if not transport.is_active():
                raise self._error(f'it closed the connection while user "{self._user}" logged in', tried)
        raise self._error(f'it refused user "{self._user}"', tried)

    def _try(self, transport: paramiko.Transport, attempt: Attempt) -> str:
        """What to add in words when the attempt did not suffice."""
        try:
            more = attempt(transport)
        except BadAuthenticationType as error:
            return f" (it takes {', '.join(error.allowed_types)} only)"
        except (SSHException, EOFError, OSError) as error:
            if str(error) == "Authentication timeout.":
                what = f"it did not answer the login within {transport.auth_timeout:g} s"
                raise DeadlineError(what, node=self._node) from error
            return ""
        return f" (accepted, it also wants {', '.join(more)})" if more else ""

    def _usual(self, tried: list[str]) -> Iterator[Offer]:
        """The most specific first: servers hang up after a few refused keys (MaxAuthTries)."""
        files = _existing(self._identities)
        yield from self._file_offers(files, tried)
        yield from self._agent_offers(tried)
        if not files:
            yield from self._file_offers(_existing([f"~/.ssh/{name}" for name in DEFAULT_KEYS]), tried)

    def _file_offers(self, files: Sequence[str], tried: list[str]) -> Iterator[Offer]:
        for file in files:
            try:
                yield self._key_offer(file, _read_key(file))
            except _UnusableKeyError as error:
                tried.append(f"not {file}, which {error}")

    def _agent_offers(self, tried: list[str]) -> Iterator[Offer]:
        try:
            agent = paramiko.Agent()
        except (SSHException, OSError) as error:
            tried.append(f"not the agent, which fails: {error}")
            return
        try:
            for key in agent.get_keys():
                if not self._identities_only or key.asbytes() in _public_keys(self._identities):
                    yield self._key_offer(f"{key.comment or key.get_name()} of the agent", key)
        finally:
            agent.close()

    def _named_key(self, file: str) -> paramiko.PKey:
        try:
            return _read_key(file)
        except _UnusableKeyError as error:
            raise AuthError(f"the key file {file} {error}", hint=error.hint, node=self._node) from error

    def _key_offer(self, name: str, key: paramiko.PKey) -> Offer:
        return f"key {name}", lambda transport: transport.auth_publickey(self._user, key)

    def _password_offer(self, variable: str) -> Offer:
        if variable not in os.environ:
            raise AuthError(
                f"the environment variable {variable}, which should hold the password, is not set",
                hint=f"read -rs {variable} && export {variable}",
                node=self._node,
            )
        # read when it is used, so that no object of ours keeps it
        return f"the password in {variable}", partial(_offer_password, self._user, variable)

    def _error(self, what: str, tried: Sequence[str]) -> AuthError:
        offered = f"; tried {', '.join(tried)}" if tried else "; there was no key, agent or password to try"
        return AuthError(
            what + offered,
            hint="Add the public key to ~/.ssh/authorized_keys there (ssh-copy-id), "
            "or name another user or key under `access:`.",
            node=self._node,
        )


class _UnusableKeyError(Exception):
    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.hint = hint


def _existing(files: Sequence[str]) -> list[str]:
    return [f for f in files if Path(f).expanduser().is_file()]


def _public_keys(files: Sequence[str]) -> list[bytes]:
    """From the .pub files beside private keys, which may themselves be locked."""
    public = _existing([f"{file}.pub" for file in files])
    lines = [Path(file).expanduser().read_text("utf-8", "replace").split() for file in public]
    return [base64.b64decode(words[1]) for words in lines if len(words) > 1]


def _offer_password(user: str, variable: str, transport: paramiko.Transport) -> list[str]:
    return transport.auth_password(user, os.environ[variable])


def _read_key(file: str) -> paramiko.PKey:
    path = Path(file).expanduser()
    try:
        return paramiko.PKey.from_path(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise _UnusableKeyError(
            "does not exist" if missing else f"cannot be read: {error.strerror}",
            f"ssh-keygen -t ed25519 -f {file}, or name another under `access: key`" if missing else f"ls -l {file}",
        ) from error
    except (TypeError, PasswordRequiredException) as error:
        raise _UnusableKeyError(
            "is protected by a passphrase",
            f"ssh-add {file}, and leave `key` out of the inventory: the agent's keys are then used",
        ) from error
    except (ValueError, SSHException, UnsupportedAlgorithm, paramiko.pkey.UnknownKeyType) as error:
        raise _UnusableKeyError("is no private key that can be used here", f"ssh-keygen -y -f {file}") from error
