//! The bucket, as arguments.

use clap::{Args, ValueEnum};

use crate::{cli::failure::Failure, hub::bucket::BucketPlace};

/// Where packs go beside the data directory, and perhaps the log.
#[derive(Args, Clone, Debug)]
pub struct BucketArguments {
    /// Keep packs and the sealed log in this bucket. Credentials come from where the AWS tools look for them. The data
    /// directory remembers it
    #[arg(long, env = "REPRISE_BUCKET", value_name = "s3://NAME/PREFIX")]
    bucket: Option<String>,
    /// Where the bucket's store answers, when it is not AWS
    #[arg(long, env = "AWS_ENDPOINT_URL_S3", value_name = "URL")]
    bucket_endpoint: Option<String>,
    /// The region that requests are signed for [default: us-east-1]
    #[arg(long, env = "AWS_REGION", value_name = "REGION")]
    bucket_region: Option<String>,
    /// Where the log is: in the data directory, brought to the bucket every 30 seconds, or in the bucket, for any number of
    /// servers
    #[arg(long, value_enum, default_value_t = LogPlace::Local)]
    log: LogPlace,
    /// What must have an event before it is acknowledged. `bucket` loses nothing with the machine; it is the same as `--log
    /// bucket`
    #[arg(long, value_enum, default_value_t = LogPlace::Local)]
    durability: LogPlace,
    /// Copies of packs in the data directory take at most this many bytes
    #[arg(long, default_value_t = 8 << 30, value_name = "BYTES")]
    bucket_copies: u64,
}

/// Where the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum LogPlace {
    /// In the data directory
    Local,
    /// In the bucket
    Bucket,
}

impl BucketArguments {
    /// The place that they name, if they name one.
    pub fn place(&self) -> Result<Option<BucketPlace>, Failure> {
        let shared = self.log == LogPlace::Bucket || self.durability == LogPlace::Bucket;
        let Some(url) = &self.bucket else {
            if shared {
                let text = "a log in a bucket needs the bucket: --bucket s3://NAME/PREFIX";
                return Err(Failure::CouldNot(text.to_owned()));
            }
            return Ok(None);
        };
        Ok(Some(BucketPlace {
            url: url.clone(),
            endpoint: self.bucket_endpoint.clone(),
            region: self.bucket_region.clone(),
            shared,
            copies_bytes_max: self.bucket_copies,
        }))
    }
}
