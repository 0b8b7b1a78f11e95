//! `DATA/server.json`: how commands reach the server that holds the directory.
//!
//! Mode 0600 from its first byte, replaced atomically, removed at shutdown. It is only believed while the directory's lock
//! is taken: a file left by a killed server names an address that anyone may have by now.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::hub::Secret;

/// What is in it.
#[derive(Serialize, Deserialize)]
struct Stored {
    address: SocketAddr,
    secret: String,
    pid: u32,
}

/// The file while a server runs; removed on drop.
pub struct ServerFile(PathBuf);

impl ServerFile {
    /// Writes it.
    #[allow(
        clippy::disallowed_methods,
        reason = "0600 and a replacement by rename: a note for commands, not stored data"
    )]
    pub fn write(data: &Path, address: SocketAddr, secret: &Secret) -> io::Result<ServerFile> {
        let (path, fresh) = (data.join(NAME), data.join(NAME_NEW));
        let stored = Stored { address, secret: secret.expose().to_owned(), pid: std::process::id() };
        let text = serde_json::to_vec(&stored).map_err(io::Error::other)?;
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        fs::rename(&fresh, &path)?;
        Ok(ServerFile(path))
    }
}

impl Drop for ServerFile {
    #[allow(clippy::disallowed_methods, reason = "see write")]
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, "removing server.json");
        }
    }
}

/// The address and secret of the server that holds `data`; `None` if there is no readable file.
#[allow(clippy::disallowed_methods, reason = "see write")]
pub fn read(data: &Path) -> Option<(SocketAddr, Secret)> {
    let bytes = fs::read(data.join(NAME)).ok()?;
    let stored: Stored = serde_json::from_slice(&bytes).ok()?;
    Some((stored.address, Secret::new(stored.secret)))
}

const NAME: &str = "server.json";
const NAME_NEW: &str = "server.json.new";
