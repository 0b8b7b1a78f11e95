//! `reprise token …`

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use reprise_engine::id::TokenId;
use serde_json::{Value, json};

use crate::{
    cli::{
        client::Client,
        failure::Failure,
        output::{Output, plain, table},
    },
    config,
};

/// Issue, list and revoke tokens
#[derive(Subcommand, Debug)]
pub enum Token {
    /// Issue a token; it is shown once
    #[command(
        after_help = "Examples:\n  reprise token create --owner alice\n  reprise token create --owner alice --repo etude --scope read --expires 30d"
    )]
    Create {
        /// Whose repositories it is for
        #[arg(long)]
        owner: String,
        /// Only this one of them
        #[arg(long, value_name = "SLUG")]
        repo: Option<String>,
        /// What it allows; each includes the ones before it
        #[arg(long, default_value = "write", value_parser = ["read", "write", "admin"])]
        scope: String,
        /// How long it is valid (30d, 12h); for ever if absent
        #[arg(long, value_parser = config::span)]
        expires: Option<Duration>,
        /// Print the secret and nothing else
        #[arg(long)]
        secret_only: bool,
    },
    /// List all tokens (their secrets are not kept)
    List,
    /// End a token at once
    Revoke {
        /// Its id, as `token list` shows it
        #[arg(value_name = "TOKEN_ID")]
        token: TokenId,
    },
}

impl Token {
    /// Whether it makes sense without a data directory.
    pub fn creates(&self) -> bool {
        matches!(self, Token::Create { .. })
    }

    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Token::Create { owner, repo, scope, expires, secret_only } => {
                let expires_ms = expires.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1));
                let body = json!({"owner": owner, "repo": repo, "scope": scope, "expires_ms": expires_ms});
                let made = client.call(Method::POST, "/tokens", Some(&body)).await?;
                output.value(&made, |made| if secret_only { plain(&made["token"]) } else { shown(made) })
            }
            Token::List => {
                let tokens = client.call(Method::GET, "/tokens", None).await?;
                output.value(&tokens, list)
            }
            Token::Revoke { token } => {
                let gone = client.call(Method::DELETE, &format!("/tokens/{token}"), None).await?;
                output.value(&gone, |gone| format!("revoked {}", plain(&gone["token_id"])))
            }
        }
    }
}

fn shown(made: &Value) -> String {
    format!(
        "{}\n\nThis is the only time it is shown. Id {}, scope {}, owner {}, expires {}.",
        plain(&made["token"]),
        plain(&made["token_id"]),
        plain(&made["scope"]),
        plain(&made["owner"]),
        made["expires_at"].as_str().unwrap_or("never"),
    )
}

fn list(tokens: &Value) -> String {
    let row = |token: &Value| HEADING_FIELDS.iter().map(|name| plain(&token[*name])).collect::<Vec<_>>();
    let rows: Vec<_> = tokens["tokens"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() { "no tokens".to_owned() } else { table(&HEADING, &rows) }
}

const HEADING: [&str; 6] = ["TOKEN", "OWNER", "REPO", "SCOPE", "STATE", "EXPIRES"];
const HEADING_FIELDS: [&str; 6] = ["token_id", "owner", "repo", "scope", "state", "expires_at"];
