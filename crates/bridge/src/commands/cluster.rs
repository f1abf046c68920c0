//! `neurobridge cluster`: shows the members of the cluster, and hands the lead over.

use super::{ask, print};
use crate::{cli::ClusterFlags, config::Config, control::Request, exit::Failure};

/// Asks the running bridge, and prints its answer.
///
/// # Errors
/// Fails when no bridge runs, it is no member of a cluster, or it does not lead and should hand over.
pub(super) async fn run(config: &Config, flags: &ClusterFlags) -> Result<(), Failure> {
    let request = if flags.hand_over {
        Request::HandOver
    } else {
        Request::Cluster
    };
    print(ask(&config.data_dir, request, "start it").await?)
}
