//! Tokens: issue, list, revoke, and who a secret belongs to.
//!
//! Invariants: the secret is shown once, by the call that made it, and only its SHA-256 is kept; a token's rights never
//! exceed those of whoever issued it; validity is judged on every request against the newest view.

use reprise_engine::{
    clock::random16,
    event::{EventBody, Scope, TokenRecord},
    id::{TokenHash, TokenId},
    object::names,
};
use reprise_projections::{View, view::TokenRow};
use sha2::{Digest, Sha256};

use crate::hub::{Caller, Hub, HubError, Secret};

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

impl Hub {
    /// Who has this secret: the operator, or the owner of a token that is valid now.
    pub async fn caller_of(&self, secret: Secret) -> Result<Caller, HubError> {
        if self.operator.matches(secret.expose()) {
            return Ok(Caller::Operator);
        }
        self.valid_token(&self.projections.view(), hash_of(&secret)).map(Caller::Token)
    }

    /// The token with this hash, if it is valid now.
    pub(crate) fn valid_token(&self, view: &View, hash: TokenHash) -> Result<TokenRecord, HubError> {
        let row = view.token(hash)?;
        let refused =
            |why: &str| Err(HubError::Unauthorized(format!("the token is {why}: muse auth login with another")));
        match row {
            None => refused("not known here"),
            Some(row) if row.revoked => refused("revoked"),
            Some(row) if self.is_over(&row.record) => refused("expired"),
            Some(row) => Ok(row.record),
        }
    }

    /// Issues a token; the secret is not kept and cannot be shown again.
    ///
    /// Errors: `Forbidden` when the caller does not administer that owner (or that repository).
    pub async fn issue_token(&self, caller: &Caller, new: NewToken) -> Result<(TokenRecord, Secret), HubError> {
        may_administer(caller, &new.owner, new.repo.as_deref())?;
        names::check_owner(&new.owner)?;
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
            expires_ms: new.expires_ms,
        };
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
            self.append_as(caller, Vec::new(), EventBody::TokenRevoked(row.record.clone())).await?;
        }
        Ok(row.record)
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
