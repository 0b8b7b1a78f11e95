//! Tokens: issue, list, revoke, and who a secret belongs to.
//!
//! Invariants: the secret is shown once, by the call that made it, and only its SHA-256 is kept; a token's rights never
//! exceed those of whoever issued it, and it ends no later (a revocation ends that one token, not those it issued);
//! validity is judged on every request, and a revocation that was answered counts at once, folded or not.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use reprise_engine::{
    clock::random16,
    event::{EventBody, Scope, TokenRecord},
    id::{Position, TokenHash, TokenId},
    object::names,
};
use reprise_projections::{View, view::TokenRow};
use sha2::{Digest, Sha256};

use crate::hub::{Caller, Hub, HubError, Secret, quarantine};

/// What a new token allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewToken {
    /// Whose repositories it is for.
    pub owner: String,
    /// Only this one of them.
    pub repo: Option<String>,
    /// What it allows.
    pub scope: Scope,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// Revocations that were answered and may not be folded yet.
#[derive(Default)]
pub struct Revoked(Mutex<BTreeMap<TokenHash, Position>>);

impl Revoked {
    fn contains(&self, hash: TokenHash) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&hash)
    }

    /// Notes one, and forgets those that every view from `folded` on shows.
    fn note(&self, hash: TokenHash, at: Position, folded: Position) {
        let mut revoked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        revoked.retain(|_, at| *at > folded);
        revoked.insert(hash, at);
    }
}

impl Hub {
    /// Who has this secret: the operator, or the owner of a token that is valid now.
    pub async fn caller_of(&self, secret: Secret) -> Result<Caller, HubError> {
        if self.operator.matches(secret.expose()) {
            return Ok(Caller::Operator);
        }
        let (mut view, hash) = (self.view().await, hash_of(&secret));
        let end = self.engine.durable().position;
        if view.checkpoint().position < end && view.token(hash)?.is_none() {
            // Perhaps it was issued a moment ago.
            view = self.view_at(end).await?;
        }
        if view.token(hash)?.is_none() && self.is_behind(&view).await? {
            view = self.view_at(self.engine.durable().position).await?;
        }
        self.valid_token(&view, hash).map(Caller::Token)
    }

    /// The token with this hash, if it is valid now.
    pub(crate) fn valid_token(&self, view: &View, hash: TokenHash) -> Result<TokenRecord, HubError> {
        let row = view.token(hash)?;
        let refused =
            |why: &str| Err(HubError::Unauthorized(format!("the token is {why}: muse auth login with another")));
        match row {
            None => refused("not known here"),
            Some(row) if row.revoked || self.revoked.contains(hash) => refused("revoked"),
            Some(row) if self.is_over(&row.record) => refused("expired"),
            Some(row) => Ok(row.record),
        }
    }

    /// Issues a token; the secret is not kept and cannot be shown again.
    ///
    /// Errors: `Forbidden` when the caller does not administer that owner (or that repository).
    pub async fn issue_token(&self, caller: &Caller, new: NewToken) -> Result<(TokenRecord, Secret), HubError> {
        may_administer(caller, &new.owner, new.repo.as_deref())?;
        let expires_ms = ends_with_issuer(caller, new.expires_ms)?;
        names::check_owner(&new.owner)?;
        quarantine::check_owner(&new.owner)?;
        new.repo.as_deref().map_or(Ok(()), names::check_slug)?;
        let mut bytes = [0u8; 32];
        self.engine.random().fill(&mut bytes)?;
        let secret = Secret::new(format!("{TOKEN_PREFIX}{}", hex::encode(bytes)));
        let record = TokenRecord {
            token: TokenId::from_random(random16(self.engine.random().as_ref())?),
            hash: hash_of(&secret),
            owner: new.owner,
            repo: new.repo,
            scope: new.scope,
            issued_ms: self.now_ms(),
            expires_ms,
        };
        self.check_token_count(&record.owner).await?;
        self.append_as(caller, Vec::new(), EventBody::TokenIssued(record.clone())).await?;
        Ok((record, secret))
    }

    /// The tokens that the caller administers, by id.
    pub async fn list_tokens(&self, caller: &Caller) -> Result<Vec<TokenRow>, HubError> {
        if matches!(caller, Caller::Anonymous) {
            return Err(token_required());
        }
        let view = self.view_at(self.engine.durable().position).await?;
        let mut rows = self.read(move || Ok(view.tokens()?)).await?;
        rows.retain(|row| may_administer(caller, &row.record.owner, row.record.repo.as_deref()).is_ok());
        Ok(rows)
    }

    /// Ends a token at once. Revoking a revoked one changes nothing.
    pub async fn revoke_token(&self, caller: &Caller, token: TokenId) -> Result<TokenRecord, HubError> {
        let row = self.list_tokens(caller).await?.into_iter().find(|row| row.record.token == token);
        let Some(row) = row else { return Err(HubError::NotFound(format!("there is no token {token}"))) };
        if !row.revoked {
            let appended = self.append_as(caller, Vec::new(), EventBody::TokenRevoked(row.record.clone())).await?;
            self.revoked.note(row.record.hash, appended.last, self.projections.folded().position);
        }
        Ok(row.record)
    }

    /// Refuses one more token for an owner who has as many as he may: valid ones count.
    async fn check_token_count(&self, owner: &str) -> Result<(), HubError> {
        let (view, max, now) = (self.view().await, self.limits.tokens_per_owner_max, self.now_ms());
        let whose = owner.to_owned();
        let count = self.read(move || Ok(view.count_tokens(&whose, now)?)).await?;
        if count < max {
            return Ok(());
        }
        Err(HubError::TooLarge(format!("'{owner}' has {count} tokens; the limit is {max}: revoke some first")))
    }

    /// Whether the token's time is over.
    pub fn is_over(&self, token: &TokenRecord) -> bool {
        token.expires_ms.is_some_and(|end| end <= self.now_ms())
    }
}

/// The hash under which a secret is known.
fn hash_of(secret: &Secret) -> TokenHash {
    TokenHash(Sha256::digest(secret.expose().as_bytes()).into())
}

/// The end of a token that `caller` issues: not after his own.
fn ends_with_issuer(caller: &Caller, wanted: Option<u64>) -> Result<Option<u64>, HubError> {
    let Caller::Token(TokenRecord { expires_ms: Some(own), .. }) = caller else { return Ok(wanted) };
    match wanted {
        Some(wanted) if wanted > *own => Err(HubError::Invalid(format!(
            "a token ends no later than the one that issues it, which ends at {own} (ms since 1970)"
        ))),
        Some(wanted) => Ok(Some(wanted)),
        None => Ok(Some(*own)),
    }
}

/// Whether the caller administers the owner (`repo`: at least that one repository).
fn may_administer(caller: &Caller, owner: &str, repo: Option<&str>) -> Result<(), HubError> {
    let may = match caller {
        Caller::Anonymous => return Err(token_required()),
        Caller::Operator => true,
        Caller::Token(token) => {
            let covers = token.repo.is_none() || token.repo.as_deref() == repo;
            token.scope >= Scope::Admin && token.owner == owner && covers
        }
    };
    if may { Ok(()) } else { Err(HubError::Forbidden(format!("this token does not administer '{owner}'"))) }
}

fn token_required() -> HubError {
    HubError::Unauthorized("a token is required".to_owned())
}

/// How a token's text begins, so that scanners find leaked ones.
const TOKEN_PREFIX: &str = "rpt_";
