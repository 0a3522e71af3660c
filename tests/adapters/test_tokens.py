"""Access tokens against everything that python-jose would let through, each refusal with a test that tries to get past it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from identity_kit import ISSUER, Kit
from jose import jws, jwt

from gateway.adapters.account_store import DatabaseAccounts
from gateway.adapters.key_store import SigningKey
from gateway.adapters.token_store import DatabaseRevocations
from gateway.adapters.tokens import MAX_TOKEN_BYTES, JoseTokens
from gateway.core.accounts import Account, AccountKind
from gateway.core.claims import AccessClaims
from gateway.core.errors import HandshakeRefusedError, Refusal
from gateway.core.signing import hkdf_sha256
from gateway.runtime.identity_ports import MintedToken
from gateway.runtime.ports import Change, ChangeKind, VerifiedCredential

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def encode(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


class Forge:
    """Mints, and signs whatever it is given with the very key of the gateway."""

    def __init__(self, kit: Kit, key: SigningKey, generation: str) -> None:
        self.kit = kit
        self.key = key
        self.claims: dict[str, object] = {
            "iss": ISSUER,
            "sub": "alice",
            "aud": ISSUER,
            "exp": int(kit.clock.now) + 900,
            "iat": int(kit.clock.now),
            "nbf": int(kit.clock.now),
            "jti": "forged",
            "client_id": "gateway",
            "scope": "member",
            "roles": ["member"],
            "tenant": "acme",
            "gen": generation,
        }
        self.header: dict[str, object] = {"alg": "ES256", "kid": key.kid, "typ": "at+jwt"}

    def sign(self, header: object, claims: object) -> str:
        signed = f"{encode(header)}.{encode(claims)}"
        return f"{signed}.{encode(self.signature(signed.encode()))}"

    def signature(self, signed: bytes) -> bytes:
        r, s = decode_dss_signature(self.key.private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def token(self, **claims: object) -> str:
        return self.sign(self.header, {**self.claims, **claims})

    def public_pem(self) -> bytes:
        return self.key.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    async def verify(self, token: str) -> VerifiedCredential:
        return await self.kit.identity.credentials.verify_token(token, self.kit.clock.now)

    async def refusal(self, token: str) -> Refusal:
        with pytest.raises(HandshakeRefusedError) as refused:
            await self.verify(token)
        assert not token or token not in f"{refused.value!r} {refused.value} {refused.value.detail}"
        return refused.value.refusal


@pytest.fixture
async def forge(kit: Kit) -> Forge:
    account = Account(name="alice", kind=AccountKind.USER, generation="g1", tenant="acme", roles=("member",))
    assert await DatabaseAccounts(kit.identity.database).add(account)
    keys = await kit.identity.tokens._store.load()
    return Forge(kit, keys[0], account.generation)


def minted(forge: Forge, **claims: object) -> MintedToken:
    everything = {**forge.claims, "roles": ("member",), **claims}
    return forge.kit.identity.tokens.mint(msgspec.convert(everything, AccessClaims), {"department": "sales"})


async def test_a_minted_token_has_the_header_and_claims_of_rfc_9068_and_proves_itself(forge: Forge) -> None:
    token = minted(forge, jti="j1", fam="f1", narrowed=True).token
    header, claims, _ = token.split(".")
    assert json.loads(decode(header)) == {"alg": "ES256", "kid": forge.key.kid, "typ": "at+jwt"}
    assert json.loads(decode(claims)) == {
        **forge.claims,
        "jti": "j1",
        "fam": "f1",
        "narrowed": True,
        "department": "sales",
    }
    principal = (await forge.verify(token)).principal
    assert (principal.subject, principal.claims) == ("alice", {"department": "sales"})


async def test_what_the_forge_signs_is_good_so_that_each_refusal_below_has_one_cause(forge: Forge) -> None:
    assert (await forge.verify(forge.token())).principal.subject == "alice"


async def test_any_jwt_library_verifies_a_token_by_the_published_key(forge: Forge) -> None:
    jwks = forge.kit.identity.tokens.jwks()
    assert set(jwks["keys"][0]) == {"alg", "crv", "kid", "kty", "use", "x", "y"}
    token = minted(forge).token
    claims = jwt.decode(
        token, jwks, algorithms=["ES256"], audience=ISSUER, options={"verify_exp": False, "verify_nbf": False}
    )
    assert claims["sub"] == "alice"


async def test_the_signing_key_is_derived_from_the_seed_and_the_jti(forge: Forge) -> None:
    key = minted(forge, jti="j1").signing_key
    assert key == hkdf_sha256(forge.key.seed, b"", b"gateway.v1 token j1")
    assert key == forge.kit.identity.tokens.signing_key(forge.key.kid, "j1")
    assert key != forge.kit.identity.tokens.signing_key(forge.key.kid, "j2")
    assert forge.kit.identity.tokens.signing_key("unknown", "j1") is None
    assert (await forge.verify(minted(forge, jti="j1").token)).signing_key == key


def test_neither_token_nor_keys_show_in_a_representation(forge: Forge) -> None:
    token = minted(forge)
    shown = f"{token!r} {forge.key!r} {forge.kit.identity.tokens._keys!r}"
    for secret in (token.token, repr(token.signing_key), repr(forge.key.seed)):
        assert secret not in shown


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS256", "RS256", "ES384", "ES256K", "EdDSA"])
async def test_a_header_with_another_algorithm_is_invalid_even_when_signed_by_our_key(
    forge: Forge, algorithm: str
) -> None:
    assert await forge.refusal(forge.sign({**forge.header, "alg": algorithm}, forge.claims)) is Refusal.INVALID_TOKEN


@pytest.mark.parametrize("signature", ["", "AA", "e30"])
async def test_an_unsigned_token_is_invalid(forge: Forge, signature: str) -> None:
    for algorithm in ("none", "ES256"):
        token = f"{encode({**forge.header, 'alg': algorithm})}.{encode(forge.claims)}.{signature}"
        assert await forge.refusal(token) is Refusal.INVALID_TOKEN


async def test_a_token_signed_by_hmac_with_our_public_key_is_invalid(forge: Forge) -> None:
    for secret in (forge.public_pem(), forge.public_pem().strip(), b"", b"k"):
        signed = f"{encode({**forge.header, 'alg': 'HS256'})}.{encode(forge.claims)}".encode()
        mac = hashes.Hash(hashes.SHA256())
        mac.update(secret + signed)
        assert await forge.refusal(f"{signed.decode()}.{encode(mac.finalize())}") is Refusal.INVALID_TOKEN


@pytest.mark.parametrize("member", ["jku", "jwk", "x5u", "x5c", "x5t", "crit", "b64", "cty", "zip", "enc", "nonce"])
async def test_a_header_that_asks_for_more_is_invalid_even_when_signed_by_our_key(forge: Forge, member: str) -> None:
    values: dict[str, object] = {
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example/certificate",
        "jwk": forge.kit.identity.tokens.jwks()["keys"][0],
        "crit": ["b64"],
        "b64": False,
    }
    header = {**forge.header, member: values.get(member, "x")}
    assert await forge.refusal(forge.sign(header, forge.claims)) is Refusal.INVALID_TOKEN


async def test_a_key_that_the_token_brings_along_is_not_looked_at(forge: Forge) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    evil = SigningKey(forge.key.kid, own, b"")
    forger = Forge(forge.kit, evil, str(forge.claims["gen"]))
    assert await forge.refusal(forger.token()) is Refusal.INVALID_TOKEN
    numbers = own.public_key().public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": encode(numbers.x.to_bytes(32, "big")),
        "y": encode(numbers.y.to_bytes(32, "big")),
    }
    assert await forge.refusal(forger.sign({**forge.header, "jwk": jwk}, forge.claims)) is Refusal.INVALID_TOKEN


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+JWT", "application/at+jwt", "", None, 1, "logout+jwt", "dpop+jwt"])
async def test_a_token_of_another_type_is_invalid(forge: Forge, typ: object) -> None:
    assert await forge.refusal(forge.sign({**forge.header, "typ": typ}, forge.claims)) is Refusal.INVALID_TOKEN


@pytest.mark.parametrize("member", ["alg", "typ", "kid"])
async def test_a_header_without_a_member_that_it_needs_is_invalid(forge: Forge, member: str) -> None:
    header = {name: value for name, value in forge.header.items() if name != member}
    assert await forge.refusal(forge.sign(header, forge.claims)) is Refusal.INVALID_TOKEN


@pytest.mark.parametrize("kid", ["", "other", "../../dev/null", "' OR 1=1", 1, None, ["a"], "\u0000"])
async def test_a_key_that_we_do_not_have_is_invalid(forge: Forge, kid: object) -> None:
    assert await forge.refusal(forge.sign({**forge.header, "kid": kid}, forge.claims)) is Refusal.INVALID_TOKEN


async def test_invented_names_of_keys_cause_one_reading_of_the_store_in_a_while(forge: Forge) -> None:
    tokens = forge.kit.identity.tokens
    before = tokens._keys
    junk = forge.sign({**forge.header, "kid": "invented"}, forge.claims)
    assert await forge.refusal(junk) is Refusal.INVALID_TOKEN
    read = tokens._keys
    assert read is not before
    for _ in range(3):
        tokens._looked_at = asyncio.get_running_loop().time()  # however slow this machine is
        assert await forge.refusal(junk) is Refusal.INVALID_TOKEN
    assert tokens._keys is read


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"null", b'"x"', b"{", b"\xff\xfe", b'{"alg":"\xff"}', b"[" * 1000, b'{"a":' * 700]
)
async def test_a_header_that_is_no_object_of_ours_is_invalid(forge: Forge, header: bytes) -> None:
    assert await forge.refusal(forge.sign(header, forge.claims)) is Refusal.INVALID_TOKEN


async def test_a_deep_header_that_nobody_signed_is_invalid_and_nothing_worse(forge: Forge) -> None:
    deep = (
        b'{"alg":"ES256","kid":"' + forge.key.kid.encode() + b'","typ":"at+jwt","x":' + b"[" * 1400 + b"]" * 1400 + b"}"
    )
    assert await forge.refusal(f"{encode(deep)}.{encode(forge.claims)}.{encode(bytes(64))}") is Refusal.INVALID_TOKEN


@pytest.mark.parametrize("claims", [b"", b"[]", b"null", b"{", b"\xff", b'{"sub":"\xff"}', b"[" * 2000])
async def test_claims_that_are_no_object_are_invalid(forge: Forge, claims: bytes) -> None:
    assert await forge.refusal(forge.sign(forge.header, claims)) is Refusal.INVALID_TOKEN


@pytest.mark.parametrize(
    "claims",
    [
        {"nbf": True},
        {"iat": True},
        {"exp": True},
        {"exp": None},
        {"exp": "1900000000"},
        {"exp": [1]},
        {"exp": 10**399},
        {"nbf": -(10**399)},
        {"exp": 2**63},
        {"exp": -1},
        {"sub": None},
        {"sub": ["alice"]},
        {"sub": ""},
        {"jti": ""},
        {"roles": "member"},
        {"roles": [["member"]]},
        {"narrowed": 1},
        {"tenant": None},
        {"aud": {"x": 1}},
    ],
)
async def test_a_claim_of_another_type_or_range_is_invalid_even_when_signed_by_our_key(
    forge: Forge, claims: dict[str, object]
) -> None:
    assert await forge.refusal(forge.token(**claims)) is Refusal.INVALID_TOKEN


async def test_issuer_audience_and_times_are_checked(forge: Forge) -> None:
    now = forge.kit.clock.now
    assert await forge.refusal(forge.token(iss="https://evil.example")) is Refusal.INVALID_TOKEN
    assert await forge.refusal(forge.token(aud="https://evil.example")) is Refusal.INVALID_TOKEN
    assert await forge.refusal(forge.token(nbf=now + 11)) is Refusal.INVALID_TOKEN
    assert await forge.refusal(forge.token(iat=now + 11)) is Refusal.INVALID_TOKEN
    assert await forge.refusal(forge.token(exp=now)) is Refusal.EXPIRED_TOKEN
    assert (await forge.verify(forge.token(iat=now + 9, nbf=now + 9))).principal.subject == "alice"


async def test_a_bad_signature_comes_before_expiry_and_expiry_before_revocation(forge: Forge) -> None:
    expired = forge.token(exp=forge.kit.clock.now - 1)
    await forge.kit.identity.accounts.disable("alice")
    assert await forge.refusal(expired[:-8] + "AAAAAAAA") is Refusal.INVALID_TOKEN
    assert await forge.refusal(expired) is Refusal.EXPIRED_TOKEN
    assert await forge.refusal(forge.token()) is Refusal.REVOKED_TOKEN


def respelled(token: str) -> list[str]:
    """Spell the same octets in every other way that a lenient decoder takes."""
    header, claims, signature = token.split(".")
    last = _ALPHABET.index(signature[-1])
    others = [signature[:-1] + _ALPHABET[(last & ~0xF) | low] for low in range(16) if low != last & 0xF]
    others += [f"{signature}==", f"{signature}=", f"{signature}\n", f" {signature}", f"{signature[:4]}!{signature[4:]}"]
    spellings = [f"{header}.{claims}.{other}" for other in others]
    spellings += [f"{header}=.{claims}.{signature}", f"{header}.{claims}==.{signature}", f"{token}\n", f" {token}"]
    return [*spellings, f"{token}.", f".{token}", f"{header}..{signature}", f"{header}.{claims}.{signature}.x"]


async def test_only_the_canonical_spelling_of_a_token_is_valid(forge: Forge) -> None:
    token = forge.token()
    for spelling in respelled(token):
        assert await forge.refusal(spelling) is Refusal.INVALID_TOKEN, spelling
    assert jws.verify(respelled(token)[0], forge.public_pem().decode(), ["ES256"]), "python-jose alone takes it"


@pytest.mark.parametrize(
    "token", ["", ".", "..", "...", "a.b.c", "é.é.é", "\ud800.a.b", "\x00", "a" * 100, "Bearer x", "🦄" * 10]
)
async def test_junk_is_invalid(forge: Forge, token: str) -> None:
    assert await forge.refusal(token) is Refusal.INVALID_TOKEN


@pytest.mark.parametrize(
    "alter",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: raw[32:] + raw[:32],
        lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
        lambda raw: bytes(len(raw)),
        lambda raw: b"\xff" * len(raw),
        lambda raw: raw[:0],
    ],
)
async def test_an_altered_signature_is_invalid(forge: Forge, alter: Callable[[bytes], bytes]) -> None:
    head, _, signature = forge.token().rpartition(".")
    assert await forge.refusal(f"{head}.{encode(alter(decode(signature)))}") is Refusal.INVALID_TOKEN


async def test_altered_claims_are_invalid(forge: Forge) -> None:
    header, _, signature = forge.token().split(".")
    claims = encode({**forge.claims, "roles": ["admin"]})
    assert await forge.refusal(f"{header}.{claims}.{signature}") is Refusal.INVALID_TOKEN


async def test_the_twin_of_a_signature_is_the_same_token_to_every_revocation(forge: Forge) -> None:
    """ECDSA has two signatures for one: whoever has (r, s) knows (r, n - s). What names a token is its `jti`."""
    head, _, signature = forge.token().rpartition(".")
    raw = decode(signature)
    twin_s = (_ORDER - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    twin = f"{head}.{encode(raw[:32] + twin_s)}"
    first, second = await forge.verify(f"{head}.{signature}"), await forge.verify(twin)
    assert first.principal == second.principal
    assert first.signing_key == second.signing_key
    await forge.kit.identity.accounts.set_password("alice", "another good password")
    assert await forge.refusal(twin) is Refusal.REVOKED_TOKEN


async def test_a_token_longer_than_any_of_ours_is_invalid_before_it_is_decoded(forge: Forge) -> None:
    assert await forge.refusal(forge.token(x="y" * MAX_TOKEN_BYTES)) is Refusal.INVALID_TOKEN
    assert await forge.refusal("a" * 1_000_000) is Refusal.INVALID_TOKEN
    assert (await forge.verify(forge.token(x="y" * 4000))).principal.claims["x"] == "y" * 4000


async def test_a_token_of_another_gateways_key_is_invalid(forge: Forge) -> None:
    other = Forge(forge.kit, SigningKey("other", ec.generate_private_key(ec.SECP256R1()), b""), "g")
    assert await forge.refusal(other.token()) is Refusal.INVALID_TOKEN


# ---------------------------------------------------------------------------------------------- proven before


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every token whose signature is verified, by the real thing."""
    verified: list[str] = []
    verify = jws.verify

    def noting(token: str, *arguments: object, **named: object) -> bytes:
        verified.append(token)
        return verify(token, *arguments, **named)

    monkeypatch.setattr(jws, "verify", noting)
    return verified


async def test_a_token_is_proven_once_and_known_by_its_exact_octets(forge: Forge, proofs: list[str]) -> None:
    token = minted(forge).token
    first = await forge.verify(token)
    assert await forge.verify(token) == first
    assert proofs == [token]
    for spelling in respelled(token):
        assert await forge.refusal(spelling) is Refusal.INVALID_TOKEN, spelling
    header, claims, signature = token.split(".")
    raw = decode(signature)
    for octet in range(len(raw)):
        altered = raw[:octet] + bytes([raw[octet] ^ 1]) + raw[octet + 1 :]
        assert await forge.refusal(f"{header}.{claims}.{encode(altered)}") is Refusal.INVALID_TOKEN


async def test_a_refused_token_is_not_kept_and_takes_no_good_ones_place(forge: Forge, proofs: list[str]) -> None:
    tokens = JoseTokens(forge.kit.identity.tokens._store, max_proven=1)
    await tokens.reload()
    good = minted(forge).token
    tokens.prove(good)
    bad = f"{good[:-8]}AAAAAAAA"
    for _ in range(2):
        with pytest.raises(HandshakeRefusedError):
            tokens.prove(bad)
    tokens.prove(good)
    assert proofs == [good, bad, bad]


async def test_of_more_tokens_than_are_kept_the_one_used_longest_ago_is_proven_anew(
    forge: Forge, proofs: list[str]
) -> None:
    tokens = JoseTokens(forge.kit.identity.tokens._store, max_proven=2)
    await tokens.reload()
    a, b, c = (minted(forge, jti=jti).token for jti in "abc")
    for token in (a, b, a, c, a, b):
        assert tokens.prove(token).claims.jti == {a: "a", b: "b", c: "c"}[token]
    assert proofs == [a, b, c, b]


async def test_what_has_ended_a_token_counts_though_its_signature_was_proven(forge: Forge, proofs: list[str]) -> None:
    now = forge.kit.clock.now
    expiring, revoked, familiar, other = (
        minted(forge, jti="e", exp=int(now) + 5).token,
        minted(forge, jti="r").token,
        minted(forge, jti="f", fam="family").token,
        minted(forge, jti="o").token,
    )
    for token in (expiring, revoked, familiar, other):
        await forge.verify(token)
    revocations = DatabaseRevocations(forge.kit.identity.database)
    for kind, issuer, key in (
        (ChangeKind.TOKEN_REVOKED, ISSUER, "r"),
        (ChangeKind.TOKEN_REVOKED, "https://another.example", "o"),
        (ChangeKind.FAMILY_REVOKED, ISSUER, "family"),
    ):
        await revocations.revoke(Change(kind, key=key, issuer=issuer, at=now), now + 900)
    forge.kit.clock.now += 6
    assert await forge.refusal(expiring) is Refusal.EXPIRED_TOKEN
    assert await forge.refusal(revoked) is Refusal.REVOKED_TOKEN
    assert await forge.refusal(familiar) is Refusal.REVOKED_TOKEN
    assert (await forge.verify(other)).principal.subject == "alice"
    await forge.kit.identity.accounts.disable("alice")
    assert await forge.refusal(other) is Refusal.REVOKED_TOKEN
    assert len(proofs) == 4, "none was proven again"


async def test_a_dropped_key_ends_tokens_that_were_proven_with_it(forge: Forge) -> None:
    token = minted(forge).token
    await forge.verify(token)
    tokens = forge.kit.identity.tokens
    await tokens._store.rotate(now=True)
    await tokens.reload()
    assert await forge.refusal(token) is Refusal.INVALID_TOKEN
    assert await forge.refusal(token) is Refusal.INVALID_TOKEN
