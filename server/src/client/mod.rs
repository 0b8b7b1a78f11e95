//! Our own client: what `reprise clone`, `pull`, `push` and `verify-clone` do to an ordinary `.muse` repository.
//!
//! Invariants: nothing is written that was not verified first (ids by their formulas, names by the engine's grammars); nothing
//! is written outside the repository's directory; what stands under a name stands there whole; a command that is interrupted
//! leaves nothing that a repetition does not take up. Owns no terminal and no environment: those are the command line's.

pub mod address;
pub mod checkout;
pub mod clone;
pub mod counter;
pub mod direct;
pub mod direct_push;
pub mod error;
pub mod fetch;
pub mod files;
pub mod head;
pub mod history;
pub mod http;
pub mod incoming;
pub mod lock;
pub mod outgoing;
pub mod packs;
pub mod parallel;
pub mod pull;
pub mod push;
pub mod record_text;
pub mod refs;
pub mod repository;
pub mod settings;
pub mod stock;
pub mod stock_push;
pub mod verify;

pub use error::ClientError;
pub use repository::Repository;
