//! `neurobridge cluster`: shows the members of the cluster, or hands the leadership over.

use super::{print, send_request};
use crate::{cli::ClusterFlags, config::Config, control::Request, exit::Failure};

/// Sends the request to the running bridge, and prints the answer.
///
/// # Errors
/// Returns an error if no bridge runs, if the bridge is not a member of a cluster, or if `--hand-over` is used on
/// a follower.
pub(super) async fn run(config: &Config, flags: &ClusterFlags) -> Result<(), Failure> {
    let request = if flags.hand_over {
        Request::HandOver
    } else {
        Request::Cluster
    };
    print(send_request(&config.data_dir, request, "start the bridge").await?)
}
