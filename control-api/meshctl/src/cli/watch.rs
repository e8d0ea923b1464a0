//! Arguments of the commands that watch traffic.

use clap::Args;

#[derive(Debug, Args)]
#[command(
    after_help = "NOW is the percentile of the worst sidecar within the budget's window. BURN says how many times faster \
                  than allowed the budget is used up, over the window and over its last twelfth; more than 1 over both is a breach.\n\
                  Exit codes: 0 none is breached, 1 one is."
)]
pub(crate) struct BudgetArgs {
    /// Budget, `name` or `namespace/name`; all when omitted
    pub(crate) budget: Option<String>,
    /// Namespace; all when omitted
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}
