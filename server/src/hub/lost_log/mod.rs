//! A hub of which only packs are left: a new log that gives back objects and commits, into quarantined repositories.
//!
//! Follow one recovery: `place` looks whether it may begin there; `survey` reads every pack through and keeps what each says
//! in a log of its own beside (`DATA/recovery`); then what is left of the old log is set aside in the store, and `retell`
//! appends the survey's events to a new log, completed by what each commit adds; `report` says what there is and what
//! nobody can know.
//!
//! Invariants: no event names a pack that was not verified in every byte; no branch, name, visibility, owner or token comes
//! from a pack, since packs are stored before their push is decided; the old log's keys are not touched before every pack was
//! read and the operator has named that log; interrupted anywhere, the same call goes on where it was.

use std::path::PathBuf;

use reprise_engine::{Error, ErrorKind, Result, id::PackId};
use sha2::{Digest, Sha256};

use crate::hub::{Hub, Limits, bucket::BucketPlace, lifecycle::Directory};

mod damaged;
mod place;
mod report;
mod retell;
mod survey;

pub use damaged::{DamagedPack, Differing, Said};
pub use place::{PacksAt, refuse_unfinished};
pub use report::{Recovered, Report};

use place::Place;
use survey::Survey;

/// What to do.
pub struct Order {
    /// The data directory that gets the new log. Empty, or one where the same recovery was interrupted.
    pub data: PathBuf,
    /// Where the packs are.
    pub packs: PacksAt,
    /// The log that is given up, as the store's mark names it.
    pub replace: Option<String>,
    /// Written into locks for whoever is refused.
    pub holder: String,
}

/// Hears how far it is: what is being done, how much of how much; false stops it after the step under way.
pub type Listener<'a> = &'a mut dyn FnMut(&'static str, u64, u64) -> bool;

/// Does it. Blocking.
///
/// Errors: `Conflict` if it may not begin there, saying what to do; `Unavailable` when it was stopped.
pub fn recover(order: &Order, listener: Listener<'_>) -> Result<Report> {
    let mut place = Place::admit(order)?;
    let survey = Survey::open(&place, &order.holder)?;
    let mut report = survey.run(&place, listener)?;
    place.take_over()?;
    let hub = open(order)?;
    let told =
        retell::run(&survey, &place, &hub, listener).and_then(|told| report.complete(&hub, told)).map(|()| report);
    // The log closes whatever came of it: it goes on from there.
    let closed = hub.close();
    survey.close()?;
    let report = told?;
    closed?;
    place.forget()?;
    Ok(report)
}

fn open(order: &Order) -> Result<Hub> {
    Hub::open_unfinished(Directory {
        data: order.data.clone(),
        limits: Limits::default(),
        create_on_push: None,
        holder: order.holder.clone(),
        bucket: order.packs.bucket().cloned(),
    })
}

/// 16 bytes that always are the same for a pack: its events have one push id whoever appends them, and as often.
fn derived(what: &str, pack: PackId) -> [u8; 16] {
    let hash = Sha256::new().chain_update(what).chain_update(pack.0).finalize();
    std::array::from_fn(|at| hash[at])
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "stopped: the same command goes on where it was")
}

impl PacksAt {
    /// The bucket, if they are in one.
    fn bucket(&self) -> Option<&BucketPlace> {
        match self {
            PacksAt::Bucket(bucket) => Some(bucket),
            PacksAt::InPlace | PacksAt::Elsewhere(_) => None,
        }
    }
}
