//! The objects, what becomes of requests on them, and their count.
//!
//! Invariants: check and write of a conditional PUT happen under one lock; a fault that comes after the effect comes after all of
//! it; a write that lands late finds what stands there then; a fault counts as fired once it has changed what its request met.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::{
    S3Error, S3ErrorCode, S3Result,
    dto::{ETag, StreamingBlob},
    s3_error,
};
use sha2::{Digest, Sha256};

use super::faults::{Fault, Faults};

/// On an answer that is not to be given.
pub(super) const CUT: &str = "x-cut-off";

/// Everything in the bucket.
#[derive(Default)]
pub struct Objects {
    state: Mutex<State>,
    /// What goes wrong.
    pub faults: Mutex<Faults>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Stored>,
    pub(super) uploads: BTreeMap<String, Upload>,
    uploads_made: u64,
    counts: BTreeMap<&'static str, u64>,
    fired: BTreeMap<(&'static str, Fault), u64>,
    answers: BTreeMap<u16, u64>,
    pub(super) reads: Vec<String>,
    /// Writes that their callers gave up, and after how many further requests they land.
    late: Vec<(u32, Act)>,
}

type Act = Box<dyn FnOnce(&mut State) + Send>;

#[derive(Clone)]
pub(super) struct Stored {
    pub(super) bytes: Bytes,
    etag: String,
    checksum: String,
}

pub(super) struct Upload {
    key: String,
    parts: BTreeMap<i32, Stored>,
}

impl Objects {
    /// Requests so far, by operation: put, get, head, delete, list, begin, part, complete, abort.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state().counts.clone()
    }

    /// Forgets the counts and gives what they were.
    pub fn take_counts(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.state().counts)
    }

    /// How often each fault has come true since this was last asked, by operation.
    pub fn take_fired(&self) -> BTreeMap<(&'static str, Fault), u64> {
        std::mem::take(&mut self.state().fired)
    }

    /// Statuses that were answered since this was last asked.
    pub fn take_answers(&self) -> BTreeMap<u16, u64> {
        std::mem::take(&mut self.state().answers)
    }

    /// Keys that were read since this was last asked, in order.
    pub fn take_reads(&self) -> Vec<String> {
        std::mem::take(&mut self.state().reads)
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// What stands under a key.
    pub fn bytes(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).map(|stored| stored.bytes.clone())
    }

    /// Puts something there, whatever was there: damage.
    pub fn overwrite(&self, key: &str, bytes: Bytes) {
        self.state().objects.insert(key.to_owned(), Stored::of(bytes));
    }

    /// Takes something away: damage.
    pub fn remove(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// Parts that nobody completed or aborted.
    pub fn unfinished(&self) -> usize {
        self.state().uploads.len()
    }

    /// Begins an upload that nobody ends.
    pub fn begin_upload(&self, key: &str) {
        let mut state = self.state();
        state.uploads_made += 1;
        let id = format!("upload-{}", state.uploads_made);
        state.uploads.insert(id, Upload { key: key.to_owned(), parts: BTreeMap::new() });
    }

    /// Uploads below a prefix that nobody ended: their ids and keys.
    pub(super) fn begun(&self, prefix: &str) -> Vec<(String, String)> {
        let state = self.state();
        let under = state.uploads.iter().filter(|(_, upload)| upload.key.starts_with(prefix));
        under.map(|(id, upload)| (id.clone(), upload.key.clone())).collect()
    }

    /// From now on these faults.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Every write that its caller gave up arrives; how many there were.
    pub fn land_late(&self) -> usize {
        let mut state = self.state();
        let late = std::mem::take(&mut state.late);
        let count = late.len();
        late.into_iter().for_each(|(_, act)| act(&mut state));
        count
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).deaf
    }

    pub(super) fn answered(&self, status: StatusCode) {
        *self.state().answers.entry(status.as_u16()).or_default() += 1;
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes before the effect of a request, and the fault that comes with it or after it.
    pub(super) async fn before(&self, operation: &'static str) -> S3Result<Option<Fault>> {
        self.state().came(operation);
        let (fault, latency) = {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            (faults.next(operation), faults.latency)
        };
        let slow = match fault {
            Some(Fault::Slow(millis)) => Duration::from_millis(u64::from(millis)),
            _ => Duration::ZERO,
        };
        let refused = match fault {
            Some(Fault::SlowDown) => Some(S3Error::with_message(S3ErrorCode::SlowDown, "a fault")),
            Some(Fault::ErrorBefore) => Some(S3Error::with_message(S3ErrorCode::InternalError, "a fault")),
            Some(Fault::Conflict) => Some(conflict()),
            Some(Fault::Missing) => Some(missing(operation)),
            Some(Fault::DropBefore) => Some(cut()),
            Some(Fault::Half) if operation != "get" => Some(cut()),
            _ => None,
        };
        if let (Some(fault), true) = (fault, refused.is_some() || slow > Duration::ZERO) {
            self.state().fired(operation, fault);
        }
        if latency + slow > Duration::ZERO {
            tokio::time::sleep(latency + slow).await;
        }
        refused.map_or(Ok(fault), Err)
    }

    /// One of these keys that is not to be deleted, and what is said of it.
    pub(super) fn stuck(&self, keys: &[String]) -> Option<(String, &'static str)> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let place = faults.stuck.iter().position(|(stuck, _)| keys.contains(stuck))?;
        Some(faults.stuck.remove(place))
    }

    /// A write takes effect: now, twice, or later and unheard of.
    pub(super) fn write<T>(
        &self,
        operation: &'static str,
        fault: Option<Fault>,
        act: impl Fn(&mut State) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let mut state = self.state();
        if let Some(Fault::Late(requests)) = fault {
            state.fired(operation, Fault::Late(requests));
            // Whatever it finds, nobody hears of it.
            state.late.push((requests, Box::new(move |state| drop(act(state)))));
            return Err(cut());
        }
        let mut done = act(&mut state)?;
        if fault == Some(Fault::Twice) {
            state.fired(operation, Fault::Twice);
            done = act(&mut state)?;
        }
        drop(state);
        self.after(operation, fault)?;
        Ok(done)
    }

    /// What comes after the effect of a request.
    pub(super) fn after(&self, operation: &'static str, fault: Option<Fault>) -> S3Result<()> {
        let lost = match fault {
            Some(Fault::DropAfter | Fault::Late(_)) => cut(),
            Some(Fault::ErrorAfter) => S3Error::with_message(S3ErrorCode::InternalError, "a fault after the effect"),
            _ => return Ok(()),
        };
        self.state().fired(operation, fault.unwrap_or(Fault::DropAfter));
        Err(lost)
    }
}

impl State {
    /// A request came: writes that are under way may land.
    fn came(&mut self, operation: &'static str) {
        *self.counts.entry(operation).or_default() += 1;
        for (requests, _) in &mut self.late {
            *requests = requests.saturating_sub(1);
        }
        while let Some(at) = self.late.iter().position(|(requests, _)| *requests == 0) {
            let (_, act) = self.late.remove(at);
            act(self);
        }
    }

    pub(super) fn fired(&mut self, operation: &'static str, fault: Fault) {
        *self.fired.entry((operation, fault)).or_default() += 1;
    }

    pub(super) fn put(&mut self, key: &str, stored: &Stored, only_new: bool) -> S3Result<()> {
        if only_new && self.objects.contains_key(key) {
            return Err(s3_error!(PreconditionFailed));
        }
        self.objects.insert(key.to_owned(), stored.clone());
        Ok(())
    }

    pub(super) fn begin(&mut self, key: &str) -> String {
        self.uploads_made += 1;
        let id = format!("upload-{}", self.uploads_made);
        self.uploads.insert(id.clone(), Upload { key: key.to_owned(), parts: BTreeMap::new() });
        id
    }

    pub(super) fn part(&mut self, upload: &str, number: i32, stored: &Stored) -> S3Result<()> {
        let upload = self.uploads.get_mut(upload).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(number, stored.clone());
        Ok(())
    }

    /// Makes one object of these parts, numbers with their tags.
    pub(super) fn complete(&mut self, upload: &str, parts: &[(i32, String)], only_new: bool) -> S3Result<()> {
        let parted = self.uploads.get(upload).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let mut bytes = BytesMut::new();
        for (number, etag) in parts {
            let stored = parted.parts.get(number).filter(|stored| stored.etag == *etag);
            bytes.extend_from_slice(&stored.ok_or_else(|| s3_error!(InvalidPart))?.bytes);
        }
        let key = parted.key.clone();
        self.put(&key, &Stored::of(bytes.freeze()), only_new)?;
        self.uploads.remove(upload);
        Ok(())
    }
}

impl Stored {
    pub(super) fn of(bytes: Bytes) -> Stored {
        let hash = Sha256::digest(&bytes);
        Stored { etag: hex::encode(&hash[..16]), checksum: STANDARD.encode(hash), bytes }
    }

    /// Reads a body; one that is not what its request says of it changes nothing.
    pub(super) async fn receive(
        body: Option<StreamingBlob>,
        checksum: Option<&String>,
        len: Option<i64>,
    ) -> S3Result<Stored> {
        let mut bytes = BytesMut::new();
        if let Some(mut body) = body {
            while let Some(chunk) = body.next().await {
                bytes.extend_from_slice(&chunk.map_err(|_| s3_error!(IncompleteBody))?);
            }
        }
        if len.is_some_and(|len| len != bytes.len() as i64) {
            return Err(s3_error!(IncompleteBody));
        }
        let stored = Stored::of(bytes.freeze());
        match checksum {
            Some(checksum) if *checksum != stored.checksum => Err(s3_error!(BadDigest)),
            _ => Ok(stored),
        }
    }

    pub(super) fn etag(&self) -> Option<ETag> {
        Some(ETag::Strong(self.etag.clone()))
    }

    pub(super) fn checksum(&self) -> String {
        self.checksum.clone()
    }
}

fn cut() -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::InternalError);
    let mut headers = HeaderMap::new();
    headers.insert(CUT, HeaderValue::from_static("1"));
    error.set_headers(headers);
    error
}

fn conflict() -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::Custom("ConditionalRequestConflict".into()));
    error.set_status_code(StatusCode::CONFLICT);
    error
}

fn missing(operation: &str) -> S3Error {
    match operation {
        "put" | "begin" | "list" => s3_error!(NoSuchBucket),
        "part" | "complete" | "abort" => s3_error!(NoSuchUpload),
        _ => s3_error!(NoSuchKey),
    }
}

/// The operations.
pub(super) struct Served(pub(super) Arc<Objects>);
