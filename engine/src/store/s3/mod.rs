//! An object store in an S3 bucket, with local copies of what this server wrote or was asked for again.
//!
//! Invariants: every write is create-if-absent with its SHA-256 pinned, and a key never gets other bytes (F7); an answer that
//! did not come is no answer: what stands under the key is read (F8); nothing is read from a local copy that the bucket has
//! not taken, or that is not what it was; requests end in bounded time and are repeated a bounded number of times, with jitter.

use std::{future::Future, sync::Arc, time::Duration};

use aws_sdk_s3::{Client, primitives::ByteStream};
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::{runtime::Runtime, sync::Semaphore};

use self::{
    client::{Failure, Tried, judge, judge_head, told},
    copies::Copied,
    range::{Range, Span},
};
use super::{
    BegunUpload, Created, ObjectStore, Staged, StoreKey,
    address::{Address, Asked},
    ahead::{Ahead, Prefetch, Soon, Through},
    directory::DirectoryStore,
    not_of,
};
use crate::{
    error::{Error, ErrorKind, Result},
    id::LogId,
};

mod client;
mod coming;
mod copies;
mod prefetch;
mod presign;
mod range;
mod sums;
mod upload;

pub use copies::Copies;

/// Where a bucket is.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket's name.
    pub bucket: String,
    /// Before every key; empty, or ends in `/`.
    pub prefix: String,
    /// Whom to ask, for stores other than AWS (`http://127.0.0.1:9000`).
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket's name in the path, not in the host name.
    pub path_style: bool,
    /// Access key and secret of callers that hold their own; else the SDK's usual chain finds them.
    pub credentials: Option<(String, String)>,
    /// How requests are cut, and how long one may take.
    pub pace: Pace,
}

/// How requests are cut, and how long one may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// One attempt of a request without a body; with one, its time comes on top.
    pub request: Duration,
    /// A body slower than this is given up.
    pub bytes_per_ms_min: u64,
    /// Up to here an object is one PUT.
    pub put_bytes_max: u64,
    /// Bytes of a part of a larger one.
    pub part_bytes: u64,
}

impl Default for Pace {
    /// 10 s and 1 MB/s; every pack is one PUT but the few that hold one huge blob.
    fn default() -> Pace {
        Pace {
            request: Duration::from_secs(10),
            bytes_per_ms_min: 1_000,
            put_bytes_max: 96 << 20,
            part_bytes: 16 << 20,
        }
    }
}

impl S3Settings {
    /// Reads `s3://NAME/PREFIX`; with an endpoint, path style is the default.
    pub fn parse(url: &str, endpoint: Option<String>, region: Option<String>) -> Result<S3Settings> {
        let rest =
            url.strip_prefix("s3://").ok_or_else(|| Error::invalid(format!("'{url}' is not s3://NAME/PREFIX")))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(named) {
            let text = "a bucket's name is 3 to 63 of a-z, 0-9, dot and hyphen";
            return Err(Error::invalid(format!("'{url}': {text}")));
        }
        let prefix = prefix.trim_end_matches('/');
        let odd = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(|c| c.is_control() || c == '\\');
        if !prefix.is_empty() && (prefix.len() > PREFIX_BYTES_MAX || prefix.split('/').any(odd)) {
            let text = format!("the prefix has an empty part, an odd one, or more than {PREFIX_BYTES_MAX} bytes");
            return Err(Error::invalid(format!("'{url}': {text}")));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let path_style = endpoint.is_some();
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        Ok(S3Settings {
            bucket: bucket.to_owned(),
            prefix,
            endpoint,
            region,
            path_style,
            credentials: None,
            pace: Pace::default(),
        })
    }
}

/// Keys are objects of a bucket below a prefix.
pub struct S3Store {
    inner: Arc<Inner>,
    /// Copies are read where there are some.
    copies: bool,
}

/// What requests share.
struct Inner {
    /// Its own, so that any thread may wait for it.
    runtime: Option<Runtime>,
    client: Client,
    settings: S3Settings,
    copies: Copies,
    coming: coming::Coming,
    range_room: Arc<Semaphore>,
}

impl S3Store {
    /// A store in the bucket of `settings`. Uploads are staged, and copies kept, in `copies`. No request is made.
    pub fn new(settings: S3Settings, copies: Copies) -> Result<S3Store> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(WORKERS).thread_name("bucket").enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("start the threads of", "the bucket's client", error))?;
        let client = runtime.block_on(client::connect(&settings));
        let (coming, range_room) = (coming::Coming::default(), prefetch::range_room());
        let inner = Arc::new(Inner { runtime: Some(runtime), client, settings, copies, coming, range_room });
        Ok(S3Store { inner, copies: true })
    }

    /// Proves that the store creates a key at most once, on which everything rests: `Invalid` if it does not, with what it
    /// did. Nothing is left behind.
    pub fn probe(&self, nonce: [u8; 16]) -> Result<()> {
        let key = StoreKey(format!("probe/{}", hex::encode(nonce)));
        let deaf = |what: &str| {
            let place = self.uri(&StoreKey(String::new()));
            Error::invalid(format!(
                "{place} does not honour create-if-absent (PUT with If-None-Match: *): {what}. Acknowledged pushes could be \
                 overwritten there, so it is not used"
            ))
        };
        let first = self.create(&key, b"first");
        let second = first.is_ok().then(|| self.create(&key, b"second"));
        let found = self.read_tail(&key, 64);
        self.delete(&key)?;
        // That the first was called taken says nothing: it may have met itself, its answer lost.
        match (first?, second.unwrap_or(Ok(false))?, &found?.0[..]) {
            (_, true, _) => Err(deaf("a key was created twice")),
            (_, false, b"first") => Ok(()),
            (false, ..) => Err(deaf("a new key was called taken")),
            _ => Err(deaf("other bytes came back")),
        }
    }

    /// Runs `future` on the client's own threads and waits; for any thread that may block.
    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let gone = || Error::new(ErrorKind::Unavailable, "the bucket's client is gone");
        let (done, wait) = crossbeam_channel::bounded(1);
        let runtime = self.inner.runtime.as_ref().ok_or_else(gone)?;
        runtime.spawn(async move {
            // Nobody hears it: whoever waited is gone.
            drop(done.send(future.await));
        });
        wait.recv().map_err(|_| gone())
    }

    /// Bytes that are here, or on their way.
    fn near(&self, key: &StoreKey, offset: u64, len: u64) -> Option<Bytes> {
        if !self.copies {
            return None;
        }
        let copy = || match self.inner.copies.read(key, offset, len) {
            Copied::Bytes(bytes) => Some(bytes),
            Copied::Damaged => {
                self.replace_copy(key);
                None
            }
            Copied::Nothing => None,
        };
        // What has just come is a copy by then.
        copy().or_else(|| self.inner.coming.read(key, offset, len)).or_else(copy)
    }

    /// Has a damaged copy fetched anew, beside everything else, one at a time.
    fn replace_copy(&self, key: &StoreKey) {
        let Some(runtime) = self.inner.runtime.as_ref().filter(|_| self.inner.copies.want(key)) else { return };
        let bucket = S3Store { inner: Arc::clone(&self.inner), copies: false };
        runtime.spawn_blocking(move || {
            while let Some(key) = bucket.inner.copies.next_wanted() {
                if let Err(error) = upload::fetch_copy(&bucket, &key) {
                    tracing::warn!(%key, %error, "a local copy that was damaged is not fetched anew");
                }
            }
        });
    }

    fn ask<T, F>(&self, asked: impl FnOnce(Arc<Inner>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.wait(asked(Arc::clone(&self.inner)))?
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // It may be dropped on one of its own threads, which must not wait for themselves.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    fn key(&self, key: &StoreKey) -> String {
        format!("{}{key}", self.settings.prefix)
    }

    /// One PUT that creates `key`: true if it did, false if something stands there.
    async fn put(&self, key: &StoreKey, bytes: u64, checksum: &str, body: ByteStream) -> Tried<bool> {
        let put = self.client.put_object().bucket(&self.settings.bucket).key(self.key(key));
        let put =
            put.if_none_match("*").checksum_sha256(checksum).content_length(i64::try_from(bytes).unwrap_or(i64::MAX));
        let config = aws_sdk_s3::config::Builder::new().timeout_config(self.settings.pace.timeouts(bytes));
        match Box::pin(put.body(body).customize().config_override(config).send()).await {
            Ok(answer) if answer.e_tag().is_some() => Ok(true),
            Ok(_) => {
                let text = format!("putting {key}: the answer is not that of an S3 store (no ETag)");
                Err((Failure::Unknown, Error::new(ErrorKind::Unknown, text)))
            }
            Err(error) => match judge(&error) {
                Failure::Exists => Ok(false),
                failure => Err((failure, told("putting", key.as_str(), failure, &error))),
            },
        }
    }

    /// Bytes of `range`, and the object's size.
    async fn get(&self, key: &StoreKey, range: Range) -> Tried<(Bytes, u64)> {
        let get = self.client.get_object().bucket(&self.settings.bucket).key(self.key(key)).range(range.to_string());
        let answer = match Box::pin(get.send()).await {
            Ok(answer) => answer,
            Err(error) => {
                let failure = judge(&error);
                return Err((failure, told("reading", key.as_str(), failure, &error)));
            }
        };
        // An answer that passes over the range brings other bytes, and as many as it likes.
        let Some(span) = answer.content_range().and_then(Span::parse).filter(|span| range.is_met_by(span)) else {
            let said = answer.content_range().unwrap_or("no Content-Range").to_owned();
            let text = format!("reading {key}: {range} was asked for, the answer has {said}");
            return Err((Failure::Unknown, Error::new(ErrorKind::Unavailable, text)));
        };
        // The SDK's timeouts end with the headers.
        let bytes = match tokio::time::timeout(self.settings.pace.patience(span.len()), answer.body.collect()).await {
            Ok(Ok(collected)) => collected.into_bytes(),
            Ok(Err(error)) => return Err((Failure::Unknown, broken_off(key, &error.to_string()))),
            Err(_) => return Err((Failure::Unknown, broken_off(key, "it took too long"))),
        };
        if bytes.len() as u64 != span.len() {
            return Err((Failure::Unknown, broken_off(key, "it came short")));
        }
        Ok((bytes, span.total))
    }

    async fn head(&self, key: &StoreKey) -> Tried<u64> {
        let head = self.client.head_object().bucket(&self.settings.bucket).key(self.key(key));
        match Box::pin(head.send()).await {
            Ok(answer) => answer.content_length().and_then(|len| u64::try_from(len).ok()).ok_or_else(|| {
                let text = format!("looking at {key}: the answer does not say how long the object is");
                (Failure::Unknown, Error::new(ErrorKind::Unavailable, text))
            }),
            Err(error) => {
                let failure = judge_head(&error);
                Err((failure, told("looking at", key.as_str(), failure, &error)))
            }
        }
    }

    async fn delete(&self, key: &StoreKey) -> Tried<()> {
        let delete = self.client.delete_object().bucket(&self.settings.bucket).key(self.key(key));
        match Box::pin(delete.send()).await {
            Ok(_) => Ok(()),
            Err(error) => match judge(&error) {
                Failure::Absent => Ok(()),
                failure => Err((failure, told("deleting", key.as_str(), failure, &error))),
            },
        }
    }
}

/// The last bytes of an object, and its size.
async fn tail(inner: Arc<Inner>, key: StoreKey, len: u64) -> Result<(Bytes, u64)> {
    again(|| async {
        match inner.get(&key, Range::Tail(len)).await {
            // An empty object has no last byte.
            Err((Failure::Range, _)) => Ok((Bytes::new(), 0)),
            got => got,
        }
    })
    .await
}

fn broken_off(key: &StoreKey, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("reading {key}: the answer broke off: {why}"))
}

/// Repeats what may be repeated.
async fn again<T, F>(asked: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Tried<T>>,
{
    let pause = ExponentialBuilder::default()
        .with_min_delay(PAUSE_FIRST)
        .with_max_delay(PAUSE_MAX)
        .with_max_times(RETRIES)
        .with_jitter();
    let repeatable =
        |(failure, _): &(Failure, Error)| matches!(failure, Failure::Raced | Failure::Later | Failure::Unknown);
    asked.retry(pause).sleep(tokio::time::sleep).when(repeatable).await.map_err(|(_, error)| error)
}

impl ObjectStore for S3Store {
    fn stage(&self) -> Result<Box<dyn Staged>> {
        upload::stage(Arc::clone(&self.inner))
    }

    fn read(&self, key: &StoreKey, offset: u64, len: u64) -> Result<Bytes> {
        if let Some(near) = self.near(key, offset, len) {
            return Ok(near);
        }
        let end = offset.checked_add(len);
        let short =
            || Error::corrupt(key.as_str(), offset, format!("{len} bytes are asked for, the object is shorter"));
        let (Some(end), true) = (end, len > 0 && len <= READ_BYTES_MAX) else {
            // Nothing to transfer: only whether it is there.
            let size = self.size(key)?;
            return match end.is_some_and(|end| end <= size) && len == 0 {
                true => Ok(Bytes::new()),
                false => Err(short()),
            };
        };
        let wanted = key.clone();
        let read = self.wait({
            let inner = Arc::clone(&self.inner);
            async move {
                again(|| async {
                    match inner.get(&wanted, Range::At { offset, end }).await {
                        Err((Failure::Range, _)) => Ok(None),
                        got => got.map(|(bytes, _)| Some(bytes)),
                    }
                })
                .await
            }
        })??;
        read.filter(|bytes| bytes.len() as u64 == len).ok_or_else(short)
    }

    fn read_tail(&self, key: &StoreKey, len: u64) -> Result<(Bytes, u64)> {
        if len == 0 {
            return Ok((Bytes::new(), self.size(key)?));
        }
        self.wait(tail(Arc::clone(&self.inner), key.clone(), len))?
    }

    fn read_tails(&self, keys: &[StoreKey], len: u64) -> Vec<Result<(Bytes, u64)>> {
        let asked = keys.iter().map(|key| tail(Arc::clone(&self.inner), key.clone(), len.max(1)));
        let mut read = self.wait(join_all(asked)).unwrap_or_else(|error| vec![Err(error)]);
        let after = read.iter().position(Result::is_err).map_or(read.len(), |at| at + 1);
        read.truncate(after);
        read
    }

    fn prefetch(&self, soon: Vec<Soon>) -> Prefetch {
        match self.copies {
            true => prefetch::begin(&self.inner, soon),
            false => Prefetch::default(),
        }
    }

    fn read_ahead(&self, key: &StoreKey, offset: u64, len: u64) -> Option<Ahead> {
        prefetch::range(&self.inner, key, offset, len)
    }

    fn read_through(&self, key: &StoreKey, offset: u64, len: u64) -> Option<Through> {
        prefetch::through(&self.inner, key, offset, len)
    }

    fn size(&self, key: &StoreKey) -> Result<u64> {
        let key = key.clone();
        self.ask(move |inner| async move { again(|| inner.head(&key)).await })
    }

    fn create(&self, key: &StoreKey, bytes: &[u8]) -> Result<bool> {
        let (key, bytes) = (key.clone(), Bytes::copy_from_slice(bytes));
        self.ask(move |inner| async move {
            let checksum = upload::checksum(&bytes);
            let len = bytes.len() as u64;
            again(|| inner.put(&key, len, &checksum, ByteStream::from(bytes.clone()))).await
        })
    }

    fn delete(&self, key: &StoreKey) -> Result<()> {
        if self.copies {
            self.inner.copies.forget(key);
        }
        let key = key.clone();
        self.ask(move |inner| async move { again(|| inner.delete(&key)).await })
    }

    fn delete_all(&self, keys: &[StoreKey]) -> Result<()> {
        for key in keys {
            self.inner.copies.forget(key);
        }
        let keys = keys.to_vec();
        self.ask(move |inner| async move {
            for some in keys.chunks(DELETE_KEYS_MAX) {
                again(|| upload::delete_some(&inner, some)).await?;
            }
            Ok(())
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreKey>> {
        let prefix = prefix.to_owned();
        self.ask(move |inner| async move {
            let tops: &[&str] = if prefix.is_empty() { &["log", "packs"] } else { &[&prefix] };
            let mut keys = Vec::new();
            for top in tops {
                upload::list_under(&inner, top, &mut keys).await?;
            }
            keys.sort();
            Ok(keys)
        })
    }

    fn uri(&self, key: &StoreKey) -> String {
        format!("s3://{}/{}", self.inner.settings.bucket, self.inner.key(key))
    }

    fn without_copies(&self) -> Option<Arc<dyn ObjectStore>> {
        Some(Arc::new(S3Store { inner: Arc::clone(&self.inner), copies: false }))
    }

    fn copies(&self) -> Option<&Copies> {
        Some(&self.inner.copies)
    }

    fn uploads(&self) -> Result<Vec<BegunUpload>> {
        self.ask(move |inner| async move { upload::begun(&inner).await })
    }

    fn abort(&self, upload: &BegunUpload) -> Result<()> {
        let upload = upload.clone();
        self.ask(move |inner| async move { again(|| upload::abort(&inner, &upload.key, &upload.id)).await })
    }

    fn sweep_staged(&self) -> Result<usize> {
        self.inner.copies.sweep()
    }

    fn address(&self, asked: &Asked) -> Result<Option<Address>> {
        let asked = asked.clone();
        self.ask(move |inner| async move { inner.address(&asked).await.map(Some) })
    }

    fn claim(&self, log: LogId, fresh: bool) -> Result<()> {
        let key = StoreKey::mark();
        let found = match self.read_tail(&key, MARK_BYTES_MAX) {
            Err(error) if error.is_not_found() => None,
            read => Some(String::from_utf8_lossy(&read?.0).trim().to_owned()),
        };
        let place = self.uri(&key);
        match found {
            Some(found) if found == log.to_string() => Ok(()),
            Some(found) => Err(not_of(log, Some(&found), &place)),
            None if fresh => match self.create(&key, format!("{log}\n").as_bytes())? {
                true => Ok(()),
                // Somebody was faster; or it was this very request.
                false => self.claim(log, false),
            },
            None => Err(not_of(log, None, &place)),
        }
    }
}

/// Threads of the client.
const WORKERS: usize = 2;
/// Tries after the first.
const RETRIES: usize = 4;
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// No more is asked for at once.
const READ_BYTES_MAX: u64 = 1 << 30;
/// S3 takes this many keys in one request.
const DELETE_KEYS_MAX: usize = 1_000;
const MARK_BYTES_MAX: u64 = 256;
const PREFIX_BYTES_MAX: usize = 512;

/// Where uploads are staged.
pub(super) type Spool = DirectoryStore;
