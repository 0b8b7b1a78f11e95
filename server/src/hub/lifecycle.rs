//! A hub over a data directory: open everything in the right order, close it in the opposite one.
//!
//! `DATA/log` (segments, lock), `DATA/objects` (packs), `DATA/index` (generations), `DATA/spool` (request bodies; emptied
//! at open). The directory's lock is taken before anything is read, brought or swept: what lies there may belong to another process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use reprise_engine::{
    Error, ErrorKind, Result,
    clock::{Random, SystemClock, SystemRandom, random16},
    disk::{Disk, real::RealDisk},
    engine::{Engine, LogKind, Options, Parts, SegmentRule},
    event::Visibility,
    store::{ObjectStore, StoreKey, directory::DirectoryStore},
};
use reprise_projections::Projections;

use crate::hub::{Hub, HubParts, Limits, Secret, archive, bucket::BucketPlace, lost_log};

/// What to open.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The data directory; created when it is not there.
    pub data: PathBuf,
    /// Bounds.
    pub limits: Limits,
    /// See [`Hub::create_on_push`].
    pub create_on_push: Option<Visibility>,
    /// Written into the lock for whoever is refused.
    pub holder: String,
    /// Where its bucket is; `None`: where it was the last time, if it had one.
    pub bucket: Option<BucketPlace>,
}

impl Hub {
    /// Opens a data directory. Blocking. Returns before the projections are caught up.
    ///
    /// Errors: `Conflict` naming the holder when another process has the directory; `Invalid` while a recovery from packs is not
    /// finished there; what the engine says otherwise.
    pub fn open(directory: Directory) -> Result<Hub> {
        lost_log::refuse_unfinished(&directory.data)?;
        Hub::open_unfinished(directory)
    }

    /// The same for the recovery itself.
    pub(crate) fn open_unfinished(directory: Directory) -> Result<Hub> {
        let Directory { data, limits, create_on_push, holder, bucket } = directory;
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let disk = Arc::new(RealDisk::new(data.clone()));
        disk.create_dir("")?;
        let held = Engine::hold(&*disk, &holder)?;
        let bucket = match bucket {
            Some(bucket) => Some(bucket),
            None => BucketPlace::noted(&data)?,
        };
        let store = match &bucket {
            Some(bucket) => bucket.open(&data, &random, &held)?,
            None => {
                let objects: Arc<dyn Disk> = Arc::new(RealDisk::new(data.join(OBJECTS)));
                Arc::new(DirectoryStore::new(objects, Arc::clone(&random)))
            }
        };
        let shared = bucket.as_ref().is_some_and(|bucket| bucket.shared);
        if bucket.is_some() && !shared {
            refuse_shared(&*store)?;
        }
        let parts = Parts { disk, store: Arc::clone(&store), clock: Arc::new(SystemClock), random: random.clone() };
        let mut options = Options::new(holder);
        if bucket.is_some() {
            options.segment_bytes = archive::SEGMENT_BYTES;
        }
        if shared {
            options.log = LogKind::Bucket(SegmentRule::DEFAULT);
        }
        let (engine, report) = Engine::open_held(parts, options, held)?;
        store.sweep_staged()?;
        let spool_dir = empty_spool(&data)?;
        let operator = Secret::new(hex::encode([random16(random.as_ref())?, random16(random.as_ref())?].concat()));
        let projections = Projections::open(
            engine.clone(),
            reprise_projections::Options {
                dir: Some(data.join(INDEX)),
                cache_bytes: CACHE_BYTES,
                memtable_bytes: MEMTABLE_BYTES,
            },
        )?;
        let hub = Hub::new(HubParts { engine, projections, limits, spool_dir, create_on_push, operator });
        Ok(hub.with_report(report).shared(shared).archiving(bucket.is_some()))
    }

    /// Stops the projections, then the log, each with its clean mark; a bucket gets what it has not of a local log. Blocking;
    /// after the last request.
    pub fn close(&self) -> Result<()> {
        if self.archiving {
            archive::finish(self);
        }
        let projections = self.projections.shutdown();
        // The log closes whatever the projections said: they can be folded again, it cannot.
        self.engine.shutdown()?;
        projections
    }

    /// True if `data` holds a log.
    pub fn exists(data: &Path) -> bool {
        // What cannot be looked at is for the opening to explain.
        Engine::exists(&RealDisk::for_reading(data.to_owned())).unwrap_or(true)
    }
}

/// A bucket whose log other servers write is no place for the segments of a log of our own.
fn refuse_shared(store: &dyn ObjectStore) -> Result<()> {
    match store.size(&StoreKey::shared()) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            let place = store.uri(&StoreKey::shared());
            let text = format!("{place}: servers share the log in this bucket: serve with --log bucket");
            Err(Error::new(ErrorKind::Conflict, text))
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "bodies on their way, not stored data: the engine's disk has no part in them"
)]
fn empty_spool(data: &Path) -> Result<PathBuf> {
    let spool = data.join(SPOOL);
    let failed = |operation| {
        let path = spool.display().to_string();
        move |error| Error::io(operation, path, error)
    };
    if spool.is_dir() {
        std::fs::remove_dir_all(&spool).map_err(failed("empty the spool"))?;
    }
    std::fs::create_dir_all(&spool).map_err(failed("create the spool"))?;
    Ok(spool)
}

/// The pack store below the data directory.
pub(crate) const OBJECTS: &str = "objects";
/// The generations of the projections below the data directory.
pub(crate) const INDEX: &str = "index";
const SPOOL: &str = "spool";
/// Block cache of the projections; with the memtables a third of the memory ceiling of 160 MiB.
const CACHE_BYTES: u64 = 32 << 20;
const MEMTABLE_BYTES: u64 = 24 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use axum::{extract::State, http::StatusCode};
    use reprise_engine::id::Position;

    use super::*;
    use crate::{http::health, hub::HubError};

    fn open(dir: &tempfile::TempDir) -> Arc<Hub> {
        let (data, limits) = (dir.path().join("data"), Limits::default());
        let directory = Directory { data, limits, create_on_push: None, holder: "a test".to_owned(), bucket: None };
        Arc::new(Hub::open(directory).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_empty_log_counts_as_folded_only_when_its_index_is_open() {
        for _ in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let hub = open(&dir);
            assert!(hub.folded(Position::ZERO, Duration::from_secs(30)).await);
            assert!(hub.projections.view().repos(None, 1).unwrap().is_empty());
            hub.close().unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_right_after_the_start_waits_until_the_index_is_open() {
        for _ in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let hub = open(&dir);
            assert_eq!(hub.find_repo("alice", "etude").await.unwrap().0, None);
            hub.close().unwrap();
            let hub = open(&dir);
            assert!(matches!(hub.caller_of(Secret::new("rpt_nobody")).await, Err(HubError::Unauthorized(_))));
            hub.close().unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_on_a_new_directory_is_ready_only_when_its_index_is_open() {
        for _ in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let hub = open(&dir);
            while health::ready(State(Arc::clone(&hub))).await.status() != StatusCode::OK {
                tokio::task::yield_now().await;
            }
            assert!(hub.projections.view().repos(None, 1).unwrap().is_empty());
            hub.close().unwrap();
        }
    }
}
