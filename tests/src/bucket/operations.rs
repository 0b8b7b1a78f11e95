//! The operations of S3 that the product uses, over the objects.
//!
//! Invariants: a body is whole and its checksum compared before anything changes; pages are small, so that lists have several.

use std::io;

use async_trait::async_trait;
use futures_util::stream;
use s3s::{
    S3, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput,
        DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, ETag, ETagCondition, Error, GetObjectInput,
        GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput,
        ListObjectsV2Input, ListObjectsV2Output, MultipartUpload, Object, PutObjectInput, PutObjectOutput,
        StreamingBlob, UploadPartInput, UploadPartOutput,
    },
    s3_error,
};

use super::{
    faults::Fault,
    objects::{Served, Stored},
};

impl Served {
    fn stored(&self, key: &str) -> S3Result<Stored> {
        self.0.state().objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn check_bucket(bucket: &str) -> S3Result<()> {
        if bucket == super::server::NAME { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }
}

fn only_new(condition: Option<&ETagCondition>) -> bool {
    condition.is_some_and(ETagCondition::is_any)
}

#[async_trait]
impl S3 for Served {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let fault = self.0.before("put").await?;
        let input = request.input;
        Served::check_bucket(&input.bucket)?;
        let stored = Stored::receive(input.body, input.checksum_sha256.as_ref(), input.content_length).await?;
        let (e_tag, only_new) = (stored.etag(), only_new(input.if_none_match.as_ref()) && !self.0.is_deaf());
        self.0.write("put", fault, move |state| state.put(&input.key, &stored, only_new))?;
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let fault = self.0.before("get").await?;
        let input = request.input;
        Served::check_bucket(&input.bucket)?;
        self.0.state().reads.push(input.key.clone());
        let stored = self.stored(&input.key)?;
        self.0.after("get", fault)?;
        let len = stored.bytes.len() as u64;
        let (mut bytes, content_range) = match input.range {
            None => (stored.bytes.clone(), None),
            Some(range) => {
                let range = range.check(len)?;
                let told = format!("bytes {}-{}/{len}", range.start, range.end - 1);
                (stored.bytes.slice(range.start as usize..range.end as usize), Some(told))
            }
        };
        let half = bytes.slice(..bytes.len() / 2);
        if let Some(fault @ (Fault::Half | Fault::Short)) = fault {
            self.0.state().fired("get", fault);
        }
        if fault == Some(Fault::Short) && content_range.is_some() {
            bytes = half.clone();
        }
        let content_length = Some(bytes.len() as i64);
        let body = match fault {
            Some(Fault::Half) => StreamingBlob::wrap(stream::iter(vec![Ok(half), Err(io::Error::other("a fault"))])),
            _ => StreamingBlob::from(s3s::Body::from(bytes)),
        };
        let (body, e_tag) = (Some(body), stored.etag());
        Ok(S3Response::new(GetObjectOutput { body, content_length, content_range, e_tag, ..Default::default() }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let fault = self.0.before("head").await?;
        Served::check_bucket(&request.input.bucket)?;
        let stored = self.stored(&request.input.key)?;
        self.0.after("head", fault)?;
        let (content_length, e_tag) = (Some(stored.bytes.len() as i64), stored.etag());
        Ok(S3Response::new(HeadObjectOutput { content_length, e_tag, ..Default::default() }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let fault = self.0.before("delete").await?;
        let key = request.input.key;
        self.0.write("delete", fault, move |state| {
            state.objects.remove(&key);
            Ok(())
        })?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let fault = self.0.before("delete").await?;
        let mut keys: Vec<String> = request.input.delete.objects.into_iter().map(|object| object.key).collect();
        let stuck = self.0.stuck(&keys);
        keys.retain(|key| stuck.as_ref().is_none_or(|(stuck, _)| key != stuck));
        self.0.write("delete", fault, move |state| {
            keys.iter().for_each(|key| drop(state.objects.remove(key)));
            Ok(())
        })?;
        let error =
            |(key, code): (String, &str)| Error { key: Some(key), code: Some(code.to_owned()), ..Error::default() };
        let errors = stuck.map(|stuck| vec![error(stuck)]);
        Ok(S3Response::new(DeleteObjectsOutput { errors, ..DeleteObjectsOutput::default() }))
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
        self.0.after("list", fault)?;
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
        let key = request.input.key;
        let upload_id = Some(self.0.write("begin", fault, move |state| Ok(state.begin(&key)))?);
        Ok(S3Response::new(CreateMultipartUploadOutput { upload_id, ..Default::default() }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let fault = self.0.before("part").await?;
        let input = request.input;
        let stored = Stored::receive(input.body, input.checksum_sha256.as_ref(), input.content_length).await?;
        let (e_tag, checksum) = (stored.etag(), stored.checksum());
        self.0.write("part", fault, move |state| state.part(&input.upload_id, input.part_number, &stored))?;
        Ok(S3Response::new(UploadPartOutput { e_tag, checksum_sha256: Some(checksum), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let fault = self.0.before("complete").await?;
        let input = request.input;
        let only_new = only_new(input.if_none_match.as_ref());
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default().into_iter();
        let named = |tag: Option<ETag>| tag.map(|tag| tag.value().to_owned()).unwrap_or_default();
        let parts: Vec<_> = parts.map(|part| (part.part_number.unwrap_or(0), named(part.e_tag))).collect();
        self.0.write("complete", fault, move |state| state.complete(&input.upload_id, &parts, only_new))?;
        let e_tag = Some(ETag::Strong("of-parts".to_owned()));
        Ok(S3Response::new(CompleteMultipartUploadOutput { e_tag, ..Default::default() }))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let fault = self.0.before("uploads").await?;
        let prefix = request.input.prefix.unwrap_or_default();
        let told = |(upload_id, key): (String, String)| MultipartUpload {
            key: Some(key),
            upload_id: Some(upload_id),
            ..Default::default()
        };
        let found = self.0.begun(&prefix).into_iter().map(told).collect();
        self.0.after("uploads", fault)?;
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(found),
            is_truncated: Some(false),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let fault = self.0.before("abort").await?;
        let upload = request.input.upload_id;
        let abort = move |state: &mut super::objects::State| {
            state.uploads.remove(&upload).map(drop).ok_or_else(|| s3_error!(NoSuchUpload))
        };
        self.0.write("abort", fault, abort)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

/// Keys of one page: few, so that lists have pages.
const PAGE_KEYS: usize = 100;
