//! Bringing bytes into the bucket: staged on disk, sent once they are whole; a single PUT, or parts when they are large.
//!
//! Invariants: nothing is visible before all of it is there and its checksums were compared by the store; an upload that
//! fails is aborted; memory holds a few parts at a time, whatever the size.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::{
    primitives::{ByteStream, SdkBody},
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, MultipartUpload, ObjectIdentifier},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use sha2::{Digest, Sha256};

use super::{
    Created, Inner, S3Store, Staged, StoreKey, again,
    client::{Failure, Tried, judge, told},
    sums::Summing,
};
use crate::{
    error::{Error, ErrorKind, Result},
    id::PackId,
    store::{BegunUpload, ObjectStore},
};

/// The SHA-256 of `bytes` as S3 writes it.
pub(super) fn checksum(bytes: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(bytes))
}

/// Starts an upload.
pub(super) fn stage(inner: Arc<Inner>) -> Result<Box<dyn Staged>> {
    let staged = inner.copies.stage()?;
    Ok(Box::new(S3Staged { inner, staged: Some(staged), bytes: 0, hash: Sha256::new(), sums: Summing::default() }))
}

struct S3Staged {
    inner: Arc<Inner>,
    staged: Option<Box<dyn Staged>>,
    bytes: u64,
    /// Of what was written so far: the checksum goes before the bytes.
    hash: Sha256,
    /// The same for the copy that will be kept.
    sums: Summing,
}

/// Staged bytes that parts are read from, by any thread.
#[derive(Clone)]
struct Source {
    staged: Arc<Mutex<Box<dyn Staged>>>,
    bytes: u64,
    part_bytes: u64,
}

impl Source {
    fn read(&self, offset: u64, len: u64) -> Result<Bytes> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).read_back(offset, len)
    }

    /// All of it as a request's body, read as it is sent; a repeated request reads it again.
    fn body(&self) -> ByteStream {
        let frames = stream::try_unfold((self.clone(), 0), |(source, at)| async move {
            let len = PIECE_BYTES.min(source.bytes - at);
            if len == 0 {
                return Ok::<_, Error>(None);
            }
            let bytes = read_part(&source, at, len).await?;
            Ok(Some((Frame::data(bytes), (source, at + len))))
        });
        ByteStream::new(SdkBody::from_body_1_x(StreamBody::new(frames)))
    }

    /// Number, offset and length of every part.
    fn parts(&self) -> impl Iterator<Item = (i32, u64, u64)> + use<> {
        let (bytes, len) = (self.bytes, self.part_bytes);
        let parts = (1..).zip(0..bytes.div_ceil(len));
        parts.map(move |(part, index)| (part, index * len, len.min(bytes - index * len)))
    }
}

impl Staged for S3Staged {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.staged.as_mut().ok_or_else(over)?.write(bytes)?;
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
        self.sums.update(bytes);
        Ok(())
    }

    fn read_back(&self, offset: u64, len: u64) -> Result<Bytes> {
        self.staged.as_ref().ok_or_else(over)?.read_back(offset, len)
    }

    fn commit(mut self: Box<Self>, key: &StoreKey) -> Result<Created> {
        let staged = self.staged.take().ok_or_else(over)?;
        let pace = self.inner.settings.pace;
        let source =
            Source { staged: Arc::new(Mutex::new(staged)), bytes: self.bytes, part_bytes: pace.part_bytes.max(1) };
        let store = S3Store { inner: Arc::clone(&self.inner), copies: false };
        let (sent, name, checksum) = (source.clone(), key.clone(), STANDARD.encode(self.hash.finalize()));
        let new = store.ask(move |inner| async move {
            match sent.bytes <= pace.put_bytes_max {
                true => again(|| inner.put(&name, sent.bytes, &checksum, sent.body())).await,
                false => put_parts(&inner, &name, &sent).await,
            }
        })?;
        if !new {
            compare(&store, key, &source)?;
        }
        if let Ok(staged) = Arc::try_unwrap(source.staged) {
            self.inner.copies.keep(key, staged.into_inner().unwrap_or_else(PoisonError::into_inner), self.sums);
        }
        Ok(if new { Created::New } else { Created::Existed })
    }
}

fn over() -> Error {
    Error::invalid("the upload is over")
}

async fn read_part(source: &Source, offset: u64, len: u64) -> Result<Bytes> {
    let source = source.clone();
    let read = tokio::task::spawn_blocking(move || source.read(offset, len)).await;
    read.map_err(|_| Error::new(ErrorKind::Unavailable, "reading a staged upload failed"))?
}

async fn put_parts(inner: &Inner, key: &StoreKey, source: &Source) -> Result<bool> {
    let upload = again(|| begin(inner, key)).await?;
    let sent = stream::iter(source.parts())
        .map(|(part, offset, len)| {
            let upload = upload.as_str();
            async move {
                let bytes = read_part(source, offset, len).await?;
                let checksum = checksum(&bytes);
                again(|| put_part(inner, key, upload, (part, &checksum, bytes.clone()))).await
            }
        })
        .buffered(PARTS_AT_ONCE)
        .try_collect::<Vec<_>>()
        .await;
    let ended = match sent {
        Ok(parts) => again(|| complete(inner, key, &upload, parts.clone())).await,
        Err(error) => Err(error),
    };
    if !matches!(ended, Ok(true)) {
        // Whatever stays is for a sweep; nobody sees it.
        drop(again(|| abort(inner, key, &upload)).await);
    }
    ended
}

/// Ends an upload without effect.
pub(super) async fn abort(inner: &Inner, key: &StoreKey, upload: &str) -> Tried<()> {
    let abort = inner.client.abort_multipart_upload().bucket(&inner.settings.bucket).key(inner.key(key));
    match Box::pin(abort.upload_id(upload).send()).await {
        Ok(_) => Ok(()),
        Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 404) => Ok(()),
        Err(error) => {
            let failure = judge(&error);
            Err((failure, told("ending an upload of", key.as_str(), failure, &error)))
        }
    }
}

/// All uploads below the prefix that were begun and not ended, page by page.
pub(super) async fn begun(inner: &Inner) -> Result<Vec<BegunUpload>> {
    let prefix = &inner.settings.prefix;
    let (mut found, mut after) = (Vec::new(), None::<(String, String)>);
    loop {
        let page = again(|| async {
            let list = inner.client.list_multipart_uploads().bucket(&inner.settings.bucket).prefix(prefix);
            let (key, id) = after.clone().unzip();
            match Box::pin(list.set_key_marker(key).set_upload_id_marker(id).send()).await {
                Ok(page) => Ok(page),
                Err(error) => {
                    let failure = judge(&error);
                    Err((failure, told("listing uploads below", prefix, failure, &error)))
                }
            }
        })
        .await?;
        let ours = |upload: &MultipartUpload| {
            let key = StoreKey(upload.key()?.strip_prefix(prefix)?.to_owned());
            Some(BegunUpload { key, id: upload.upload_id()?.to_owned() })
        };
        found.extend(page.uploads().iter().filter_map(ours));
        after = page.next_key_marker().map(str::to_owned).zip(page.next_upload_id_marker().map(str::to_owned));
        if after.is_none() || page.is_truncated() != Some(true) {
            return Ok(found);
        }
    }
}

async fn begin(inner: &Inner, key: &StoreKey) -> Tried<String> {
    let begin = inner.client.create_multipart_upload().bucket(&inner.settings.bucket).key(inner.key(key));
    match Box::pin(begin.checksum_algorithm(ChecksumAlgorithm::Sha256).send()).await {
        Ok(answer) => answer.upload_id().map(str::to_owned).ok_or_else(|| {
            let text = format!("putting {key}: the store began an upload without naming it");
            (Failure::Unknown, Error::new(ErrorKind::Unknown, text))
        }),
        Err(error) => {
            let failure = judge(&error);
            Err((failure, told("putting", key.as_str(), failure, &error)))
        }
    }
}

async fn put_part(
    inner: &Inner,
    key: &StoreKey,
    upload: &str,
    (part, checksum, bytes): (i32, &str, Bytes),
) -> Tried<CompletedPart> {
    let config = aws_sdk_s3::config::Builder::new().timeout_config(inner.settings.pace.timeouts(bytes.len() as u64));
    let put = inner.client.upload_part().bucket(&inner.settings.bucket).key(inner.key(key)).upload_id(upload);
    let put = put.part_number(part).checksum_sha256(checksum).body(ByteStream::from(bytes));
    match Box::pin(put.customize().config_override(config).send()).await {
        Ok(answer) => {
            let done = CompletedPart::builder().part_number(part).checksum_sha256(checksum);
            Ok(done.set_e_tag(answer.e_tag().map(str::to_owned)).build())
        }
        Err(error) => {
            let failure = judge(&error);
            Err((failure, told("putting a part of", key.as_str(), failure, &error)))
        }
    }
}

async fn complete(inner: &Inner, key: &StoreKey, upload: &str, parts: Vec<CompletedPart>) -> Tried<bool> {
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let config = aws_sdk_s3::config::Builder::new()
        .timeout_config(inner.settings.pace.timeouts(inner.settings.pace.put_bytes_max));
    let complete = inner.client.complete_multipart_upload().bucket(&inner.settings.bucket).key(inner.key(key));
    let complete = complete.upload_id(upload).if_none_match("*").multipart_upload(parts);
    match Box::pin(complete.customize().config_override(config).send()).await {
        Ok(_) => Ok(true),
        Err(error) => {
            let gone = error.raw_response().is_some_and(|raw| raw.status().as_u16() == 404);
            match judge(&error) {
                Failure::Exists => Ok(false),
                // The answer to an earlier try was lost: what stands under the key says what became of it.
                _ if gone => Ok(false),
                failure => Err((failure, told("putting", key.as_str(), failure, &error))),
            }
        }
    }
}

/// Something stood under the key: `Corrupt` if it is not what was to be put there.
fn compare(store: &S3Store, key: &StoreKey, source: &Source) -> Result<()> {
    let other = || Error::corrupt(key.as_str(), 0, "other bytes stand under this key");
    let size = match store.size(key) {
        // The store has given the upload up (its parts are gone) and nobody else has put anything there.
        Err(error) if error.is_not_found() => {
            let text = format!("putting {key}: the store has given the upload up; it may be tried again");
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        size => size?,
    };
    if size != source.bytes {
        return Err(other());
    }
    for (_, offset, len) in source.parts() {
        if store.read(key, offset, len)? != source.read(offset, len)? {
            return Err(other());
        }
    }
    Ok(())
}

/// Makes a copy of a pack from what the bucket has, if that is the pack.
pub(super) fn fetch_copy(bucket: &S3Store, key: &StoreKey) -> Result<()> {
    let (size, copies) = (bucket.size(key)?, &bucket.inner.copies);
    let (mut staged, mut hash, mut sums) = (copies.stage()?, Sha256::new(), Summing::default());
    for offset in (0..size).step_by(COPY_STEP) {
        let bytes = bucket.read(key, offset, COPY_BYTES.min(size - offset))?;
        staged.write(&bytes)?;
        hash.update(&bytes);
        sums.update(&bytes);
    }
    if StoreKey::pack(PackId(hash.finalize().into())) != *key {
        return Err(Error::corrupt(key.as_str(), 0, "what the bucket has does not hash to its name"));
    }
    copies.keep(key, staged, sums);
    Ok(())
}

/// Deletes up to a thousand keys in one request.
pub(super) async fn delete_some(inner: &Inner, keys: &[StoreKey]) -> Tried<()> {
    let name = |key: &StoreKey| ObjectIdentifier::builder().key(inner.key(key)).build();
    let refused = |error: &dyn std::fmt::Display| {
        (Failure::Refused, Error::new(ErrorKind::Unavailable, format!("deleting {} keys: {error}", keys.len())))
    };
    let names: std::result::Result<Vec<_>, _> = keys.iter().map(name).collect();
    let names = names.map_err(|error| refused(&error))?;
    let delete = Delete::builder().set_objects(Some(names)).quiet(true).build().map_err(|error| refused(&error))?;
    let request = inner.client.delete_objects().bucket(&inner.settings.bucket).delete(delete);
    match Box::pin(request.send()).await {
        Ok(answer) => match answer.errors().first() {
            None => Ok(()),
            // It is the store's own failure; the others are gone already, which is fine.
            Some(error) if matches!(error.code(), Some("InternalError" | "SlowDown" | "ServiceUnavailable")) => {
                let (_, error) = refused(&error.code().unwrap_or("refused"));
                Err((Failure::Later, error))
            }
            Some(error) => Err(refused(&error.message().or(error.code()).unwrap_or("refused"))),
        },
        Err(error) => {
            let failure = judge(&error);
            Err((failure, told("deleting keys from", &inner.settings.bucket, failure, &error)))
        }
    }
}

/// Appends the keys under `top`, page by page.
pub(super) async fn list_under(inner: &Inner, top: &str, keys: &mut Vec<StoreKey>) -> Result<()> {
    let under = format!("{}{top}/", inner.settings.prefix);
    let mut token: Option<String> = None;
    loop {
        let page = again(|| async {
            let list = inner.client.list_objects_v2().bucket(&inner.settings.bucket).prefix(&under);
            match Box::pin(list.set_continuation_token(token.clone()).send()).await {
                Ok(page) => Ok(page),
                Err(error) => {
                    let failure = judge(&error);
                    Err((failure, told("listing", &under, failure, &error)))
                }
            }
        })
        .await?;
        let found = page.contents().iter().filter_map(|object| object.key()?.strip_prefix(&inner.settings.prefix));
        keys.extend(found.map(|key| StoreKey(key.to_owned())));
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() || page.is_truncated() != Some(true) {
            return Ok(());
        }
    }
}

/// Bytes read at a time while they are sent.
const PIECE_BYTES: u64 = 1 << 20;
/// Bytes of a copy fetched at a time.
const COPY_BYTES: u64 = 16 << 20;
const COPY_STEP: usize = 16 << 20;
/// Parts under way at once.
const PARTS_AT_ONCE: usize = 4;
