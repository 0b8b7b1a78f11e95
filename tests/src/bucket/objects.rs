//! The objects, the operations on them, and their count.
//!
//! Invariants: check and write of a conditional PUT happen under one lock; a body whose checksum is not the stated one changes
//! nothing; a fault that comes after the effect comes after all of it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue};
use s3s::{
    S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput,
        DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, ETag, ETagCondition, GetObjectInput,
        GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object,
        PutObjectInput, PutObjectOutput, StreamingBlob, UploadPartInput, UploadPartOutput,
    },
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
struct State {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<String, Upload>,
    uploads_made: u64,
    counts: BTreeMap<&'static str, u64>,
    reads: Vec<String>,
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    checksum: String,
}

struct Upload {
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

    /// From now on these faults.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes before the effect of a request, and the fault that comes after it.
    async fn before(&self, operation: &'static str) -> S3Result<Option<Fault>> {
        *self.state().counts.entry(operation).or_default() += 1;
        let (fault, latency) = {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            (faults.next(operation), faults.latency)
        };
        let slow = match fault {
            Some(Fault::Slow(millis)) => Duration::from_millis(u64::from(millis)),
            _ => Duration::ZERO,
        };
        if latency + slow > Duration::ZERO {
            tokio::time::sleep(latency + slow).await;
        }
        match fault {
            Some(Fault::SlowDown) => Err(S3Error::with_message(S3ErrorCode::SlowDown, "a fault")),
            Some(Fault::ErrorBefore) => Err(S3Error::with_message(S3ErrorCode::InternalError, "a fault")),
            Some(Fault::Conflict) if operation == "put" || operation == "complete" => {
                let mut error = S3Error::new(S3ErrorCode::Custom("ConditionalRequestConflict".into()));
                error.set_status_code(http::StatusCode::CONFLICT);
                Err(error)
            }
            Some(Fault::DropBefore) => Err(cut()),
            fault => Ok(fault),
        }
    }
}

fn after(fault: Option<Fault>) -> S3Result<()> {
    match fault {
        Some(Fault::DropAfter) => Err(cut()),
        Some(Fault::ErrorAfter) => Err(S3Error::with_message(S3ErrorCode::InternalError, "a fault after the effect")),
        _ => Ok(()),
    }
}

fn cut() -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::InternalError);
    let mut headers = HeaderMap::new();
    headers.insert(CUT, HeaderValue::from_static("1"));
    error.set_headers(headers);
    error
}

impl Stored {
    fn of(bytes: Bytes) -> Stored {
        let hash = Sha256::digest(&bytes);
        Stored { etag: hex::encode(&hash[..16]), checksum: STANDARD.encode(hash), bytes }
    }

    async fn receive(body: Option<StreamingBlob>, checksum: Option<&String>, len: Option<i64>) -> S3Result<Stored> {
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

    fn etag(&self) -> Option<ETag> {
        Some(ETag::Strong(self.etag.clone()))
    }
}

/// The operations.
pub(super) struct Served(pub(super) Arc<Objects>);

impl Served {
    fn stored(&self, key: &str) -> S3Result<Stored> {
        self.0.state().objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn check_bucket(bucket: &str) -> S3Result<()> {
        if bucket == super::server::NAME { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    fn put(&self, key: String, stored: Stored, only_new: bool) -> S3Result<()> {
        let mut state = self.0.state();
        if only_new && state.objects.contains_key(&key) {
            return Err(s3_error!(PreconditionFailed));
        }
        state.objects.insert(key, stored);
        Ok(())
    }
}

#[async_trait]
impl S3 for Served {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let fault = self.0.before("put").await?;
        let input = request.input;
        Served::check_bucket(&input.bucket)?;
        let stored = Stored::receive(input.body, input.checksum_sha256.as_ref(), input.content_length).await?;
        let e_tag = stored.etag();
        self.put(input.key, stored, input.if_none_match.as_ref().is_some_and(ETagCondition::is_any))?;
        after(fault)?;
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let fault = self.0.before("get").await?;
        let input = request.input;
        Served::check_bucket(&input.bucket)?;
        self.0.state().reads.push(input.key.clone());
        let stored = self.stored(&input.key)?;
        after(fault)?;
        let len = stored.bytes.len() as u64;
        let (bytes, content_range) = match input.range {
            None => (stored.bytes.clone(), None),
            Some(range) => {
                let range = range.check(len)?;
                let told = format!("bytes {}-{}/{len}", range.start, range.end - 1);
                (stored.bytes.slice(range.start as usize..range.end as usize), Some(told))
            }
        };
        let content_length = Some(bytes.len() as i64);
        let body = match fault {
            Some(Fault::Half) => {
                let half = Ok(bytes.slice(..bytes.len() / 2));
                StreamingBlob::wrap(stream::iter(vec![half, Err(io::Error::other("a fault"))]))
            }
            _ => StreamingBlob::from(s3s::Body::from(bytes)),
        };
        let (body, e_tag) = (Some(body), stored.etag());
        Ok(S3Response::new(GetObjectOutput { body, content_length, content_range, e_tag, ..Default::default() }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let fault = self.0.before("head").await?;
        Served::check_bucket(&request.input.bucket)?;
        let stored = self.stored(&request.input.key)?;
        after(fault)?;
        let (content_length, e_tag) = (Some(stored.bytes.len() as i64), stored.etag());
        Ok(S3Response::new(HeadObjectOutput { content_length, e_tag, ..Default::default() }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let fault = self.0.before("delete").await?;
        self.0.state().objects.remove(&request.input.key);
        after(fault)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let fault = self.0.before("delete").await?;
        {
            let mut state = self.0.state();
            for object in &request.input.delete.objects {
                state.objects.remove(&object.key);
            }
        }
        after(fault)?;
        Ok(S3Response::new(DeleteObjectsOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let fault = self.0.before("list").await?;
        let input = request.input;
        Served::check_bucket(&input.bucket)?;
        let prefix = input.prefix.unwrap_or_default();
        let from = input.continuation_token.or(input.start_after).unwrap_or_default();
        let mut found: Vec<(String, u64)> = {
            let state = self.0.state();
            let under = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > from);
            under.take(PAGE_KEYS + 1).map(|(key, stored)| (key.clone(), stored.bytes.len() as u64)).collect()
        };
        after(fault)?;
        let more = found.len() > PAGE_KEYS;
        found.truncate(PAGE_KEYS);
        let next_continuation_token = if more { found.last().map(|(key, _)| key.clone()) } else { None };
        let object =
            |(key, size): (String, u64)| Object { key: Some(key), size: Some(size as i64), ..Default::default() };
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(prefix),
            key_count: Some(found.len() as i32),
            is_truncated: Some(more),
            next_continuation_token,
            contents: Some(found.into_iter().map(object).collect()),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let fault = self.0.before("begin").await?;
        Served::check_bucket(&request.input.bucket)?;
        let upload_id = {
            let mut state = self.0.state();
            state.uploads_made += 1;
            let id = format!("upload-{}", state.uploads_made);
            state.uploads.insert(id.clone(), Upload { key: request.input.key, parts: BTreeMap::new() });
            Some(id)
        };
        after(fault)?;
        Ok(S3Response::new(CreateMultipartUploadOutput { upload_id, ..Default::default() }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let fault = self.0.before("part").await?;
        let input = request.input;
        let stored = Stored::receive(input.body, input.checksum_sha256.as_ref(), input.content_length).await?;
        let (e_tag, checksum) = (stored.etag(), stored.checksum.clone());
        {
            let mut state = self.0.state();
            let upload = state.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
            upload.parts.insert(input.part_number, stored);
        }
        after(fault)?;
        Ok(S3Response::new(UploadPartOutput { e_tag, checksum_sha256: Some(checksum), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let fault = self.0.before("complete").await?;
        let input = request.input;
        {
            let mut state = self.0.state();
            let only_new = input.if_none_match.as_ref().is_some_and(ETagCondition::is_any);
            if only_new && state.objects.contains_key(&input.key) {
                return Err(s3_error!(PreconditionFailed));
            }
            let upload = state.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
            let mut bytes = BytesMut::new();
            for part in input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default() {
                let stored = upload.parts.get(&part.part_number.unwrap_or(0)).ok_or_else(|| s3_error!(InvalidPart))?;
                if part.e_tag.as_ref().map(ETag::value) != Some(stored.etag.as_str()) {
                    return Err(s3_error!(InvalidPart));
                }
                bytes.extend_from_slice(&stored.bytes);
            }
            let key = upload.key.clone();
            state.objects.insert(key, Stored::of(bytes.freeze()));
            state.uploads.remove(&input.upload_id);
        }
        after(fault)?;
        let e_tag = Some(ETag::Strong("of-parts".to_owned()));
        Ok(S3Response::new(CompleteMultipartUploadOutput { e_tag, ..Default::default() }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let fault = self.0.before("abort").await?;
        self.0.state().uploads.remove(&request.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        after(fault)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

/// Keys of one page: few, so that lists have pages.
const PAGE_KEYS: usize = 100;
