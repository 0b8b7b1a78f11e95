//! Which token our own client's commands send: never one from the command line, where other users of the machine would see it.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::{
    client::{ClientError, address::Address, settings},
    hub::Secret,
};

/// What of the environment our own client's commands use; `main` reads it.
#[derive(Clone, Default, Debug)]
pub struct Environment {
    /// `MUSE_TOKEN`
    pub token: Option<Secret>,
    /// `HOME`
    pub home: Option<PathBuf>,
}

/// Where a token may come from besides the environment.
#[derive(Args, Debug)]
pub struct Credentials {
    /// A file whose first line is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Credentials {
    /// The token for a hub: from the file, else `MUSE_TOKEN`, else what `muse auth login` stored.
    pub fn token(&self, environment: &Environment, address: &Address) -> Result<Option<Secret>, ClientError> {
        if let Some(path) = &self.token_file {
            return settings::token_in(path).map(Some);
        }
        if let Some(token) = &environment.token {
            return Ok(Some(token.clone()));
        }
        environment.home.as_deref().map_or(Ok(None), |home: &Path| settings::stored_token(home, address))
    }
}

/// How `--help` says it.
macro_rules! token_help {
    ($text:literal) => {
        concat!(
            $text,
            "
A token is taken from --token-file, else from MUSE_TOKEN, else from ~/.muse/identity.toml, where
`muse auth login` keeps it. It is never an argument: other users of the machine can read those. It is
sent over plain http to this machine only."
        )
    };
}
pub(crate) use token_help;
