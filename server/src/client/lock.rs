//! One command at a time in one repository.
//!
//! Invariants: held by the process that has it and by nobody else; gone with the process, however it ends.

use std::path::Path;

use super::{ClientError, files};

/// Held while it lives.
pub struct Lock(#[allow(dead_code, reason = "it is what is held")] std::fs::File);

impl Lock {
    /// Takes the lock at `path`, which may be removed while it is held.
    ///
    /// Errors: `Refused` if another command has it.
    pub fn take(path: &Path) -> Result<Lock, ClientError> {
        for _ in 0..TRIES {
            let file = files::lock_file(path)?;
            match file.try_lock() {
                // Who had it before may have removed it between our two steps: then it locks nothing.
                Ok(()) if files::is_still(&file, path)? => return Ok(Lock(file)),
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => break,
                Err(std::fs::TryLockError::Error(error)) => return Err(ClientError::files("locking", path, error)),
            }
        }
        Err(ClientError::Refused(format!("another command is at work here ({} is locked)", path.display())))
    }
}

const TRIES: usize = 10;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_at_a_time_also_after_the_file_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/lock");
        let held = Lock::take(&path).unwrap();
        assert!(Lock::take(&path).is_err());
        files::remove(&path).unwrap();
        let other = Lock::take(&path).unwrap();
        drop(held);
        assert!(Lock::take(&path).is_err());
        drop(other);
        assert!(Lock::take(&path).is_ok());
    }
}
