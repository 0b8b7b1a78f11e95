//! Where a data directory's bucket is, and how it is reached.
//!
//! Invariants: a directory that was opened with a bucket is never opened without it, since its packs are there; its note of that
//! (`DATA/bucket.json`) holds no secret; packs of the time before are in the bucket, and were read back and compared, before the
//! note is written: from then on the originals may be deleted (F7). Nobody opens the directory meanwhile (F9): a pack that came in
//! beside would be left behind. No row changes for it: they hold keys, not addresses.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use reprise_engine::{
    Error, ErrorKind, Result,
    clock::{Random, SystemClock, SystemRandom, random16},
    disk::{self, Disk, real::RealDisk},
    engine::{Engine, Held, Parts, SegmentInfo},
    id::PackId,
    pack, restore,
    store::{
        ObjectStore, StoreKey,
        directory::DirectoryStore,
        s3::{Copies, S3Settings, S3Store},
    },
};
use serde::{Deserialize, Serialize};

use crate::hub::lifecycle::OBJECTS;

/// Where a hub's packs are, and perhaps its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BucketPlace {
    /// `s3://NAME/PREFIX`
    pub url: String,
    /// Whom to ask, for stores other than AWS.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: Option<String>,
    /// The log is in the bucket, and other servers may write it too.
    pub shared: bool,
    /// Local copies take no more than this.
    pub copies_bytes_max: u64,
}

impl BucketPlace {
    /// The directory's note of its bucket; `None` if it has none.
    pub fn noted(data: &Path) -> Result<Option<BucketPlace>> {
        let Some(bytes) = disk::read_file(&RealDisk::new(data.to_owned()), NOTE, NOTE_BYTES_MAX)? else {
            return Ok(None);
        };
        let noted = serde_json::from_slice(&bytes);
        noted
            .map(Some)
            .map_err(|error| Error::corrupt(NOTE, 0, format!("it does not say where the bucket is: {error}")))
    }

    /// Notes it, durable before its name is.
    fn note(&self, disk: &dyn Disk) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::invalid(error.to_string()))?;
        disk::replace_file(disk, NOTE, &text)
    }

    /// The store in the bucket, proven to create keys at most once; with the packs that the directory, which is held, kept before.
    pub(super) fn open(&self, data: &Path, random: &Arc<dyn Random>, _held: &Held) -> Result<Arc<dyn ObjectStore>> {
        let store = self.connect(data, random)?;
        let noted = BucketPlace::noted(data)?;
        if noted.as_ref().is_some_and(|noted| noted.url != self.url) {
            let before = noted.map(|noted| noted.url).unwrap_or_default();
            let text = format!("the packs of this directory are in {before}, not in {}: see {NOTE}", self.url);
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        if noted.is_none() {
            store.probe(random16(&**random)?)?;
            let objects: Arc<dyn Disk> = Arc::new(RealDisk::new(data.join(OBJECTS)));
            bring(&DirectoryStore::new(objects, Arc::clone(random)), &store)?;
        }
        if noted.as_ref() != Some(self) {
            self.note(&RealDisk::new(data.to_owned()))?;
        }
        Ok(Arc::new(store))
    }
}

impl BucketPlace {
    /// Brings the log of the bucket into `data`, and notes the bucket there; of a log that servers share, the first opening
    /// brings it. `each` hears of every segment. A directory that holds a log and a bucket that holds none stay as they are.
    pub fn restore(mut self, data: &Path, each: &mut dyn FnMut(&SegmentInfo)) -> Result<Arc<dyn ObjectStore>> {
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let disk = Arc::new(RealDisk::new(data.to_owned()));
        disk.create_dir("")?;
        let held = Engine::hold(&*disk, &format!("reprise restore, process {}", std::process::id()))?;
        restore::ensure_no_log(&*disk)?;
        let probe = self.connect(data, &random)?;
        self.shared = restore::is_shared(&probe)?;
        drop(probe);
        let store = self.open(data, &random, &held)?;
        if !self.shared {
            let clock = Arc::new(SystemClock);
            let parts = Parts { disk, store: Arc::clone(&store), clock, random };
            restore::restore(&parts, &held, each)?;
        }
        Ok(store)
    }

    /// The store in the bucket, and nothing noted or proven of it.
    pub(super) fn connect(&self, data: &Path, random: &Arc<dyn Random>) -> Result<S3Store> {
        let copies = Copies::new(copies_dir(data, random), self.copies_bytes_max)?;
        S3Store::new(self.settings()?, copies)
    }

    /// The store of a directory that is not opened: for looking at it. Nothing local is touched.
    pub fn at_rest(&self, data: &Path) -> Result<Arc<dyn ObjectStore>> {
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        Ok(Arc::new(S3Store::new(self.settings()?, Copies::none(copies_dir(data, &random)))?))
    }

    fn settings(&self) -> Result<S3Settings> {
        S3Settings::parse(&self.url, self.endpoint.clone(), self.region.clone())
    }
}

fn copies_dir(data: &Path, random: &Arc<dyn Random>) -> DirectoryStore {
    DirectoryStore::new(Arc::new(RealDisk::for_copies(data.join(COPIES))), Arc::clone(random))
}

/// Brings the packs that a directory kept before it had a bucket, and then its mark: begun again, it goes on where it was. Each is
/// read back, also those that were there: nobody else will compare them before the originals go.
fn bring(from: &DirectoryStore, to: &S3Store) -> Result<()> {
    let (mark, _) = match from.read_tail(&StoreKey::mark(), NOTE_BYTES_MAX) {
        Err(error) if error.is_not_found() => return Ok(()),
        mark => mark?,
    };
    // Before the first byte: another hub's next sweep would delete what was sent.
    ensure_ours(to, &mark)?;
    let packs = from.list("packs")?;
    let there = to.list("packs")?;
    let bucket = to.without_copies();
    let bucket = bucket.as_deref().unwrap_or(to);
    let (mut told, began) = (Instant::now(), Instant::now());
    for (done, key) in packs.iter().enumerate() {
        if there.binary_search(key).is_err() {
            send(from, to, key)?;
        }
        compare(from, bucket, key)?;
        if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            let seconds = began.elapsed().as_secs();
            tracing::info!(done, of = packs.len(), seconds, "packs are brought into the bucket and read back");
        }
    }
    match to.create(&StoreKey::mark(), &mark)? {
        true => Ok(()),
        false => ensure_ours(to, &mark),
    }
}

/// `Conflict` if the bucket bears another mark than this.
fn ensure_ours(bucket: &S3Store, mark: &[u8]) -> Result<()> {
    match bucket.read_tail(&StoreKey::mark(), NOTE_BYTES_MAX) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok((found, _)) if found == mark => Ok(()),
        Ok(_) => {
            let place = bucket.uri(&StoreKey::mark());
            Err(Error::new(ErrorKind::Conflict, format!("{place}: the bucket holds another hub's packs")))
        }
    }
}

fn send(from: &DirectoryStore, to: &S3Store, key: &StoreKey) -> Result<()> {
    let size = from.size(key)?;
    let mut staged = to.stage()?;
    for at in (0..size).step_by(PIECE_STEP) {
        staged.write(&from.read(key, at, (size - at).min(PIECE_STEP as u64))?)?;
    }
    staged.commit(key).map(drop)
}

/// `Corrupt` unless the bucket has the pack as it is here, or as it should be. One that is damaged here goes as it is: what is
/// sound in it is served from there as well, and what is not is condemned by whoever meets it.
fn compare(here: &DirectoryStore, bucket: &dyn ObjectStore, key: &StoreKey) -> Result<()> {
    let hash = |store: &dyn ObjectStore| Ok::<_, Error>(PackId(pack::hash_of(store, key, store.size(key)?)?));
    let there = hash(bucket)?;
    if StoreKey::pack(there) == *key {
        return Ok(());
    }
    if hash(here)? != there {
        let text = "the bucket has other bytes under this key than the directory: delete the key there and start again";
        return Err(Error::corrupt(bucket.uri(key), 0, text));
    }
    tracing::error!(%key, "a damaged pack was brought into the bucket as it is: ask `reprise verify --deep`");
    Ok(())
}

const NOTE: &str = "bucket.json";
const NOTE_BYTES_MAX: u64 = 64 << 10;
/// Copies of what the bucket holds, below the data directory.
const COPIES: &str = "copies";
const PIECE_STEP: usize = 8 << 20;
const TELL_EVERY: Duration = Duration::from_secs(2);
