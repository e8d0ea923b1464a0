//! The authority service: change of roots.

use mesh_proto::admin::authority_service_server::AuthorityService;
use mesh_proto::admin::{
    RotateRequest, RotationStatusRequest, RotationStatusResponse, RotationStep,
};
use tonic::{Request, Response, Status};

use super::Administration;
use crate::ca::StepError;
use crate::rotation::{Rotation, RotationError};

/// The service.
#[derive(Clone)]
pub struct AuthorityAdministration {
    /// Knows operators.
    pub administration: Administration,
    /// Takes the steps.
    pub rotation: Rotation,
}

impl From<RotationError> for Status {
    fn from(error: RotationError) -> Self {
        let text = error.to_string();
        match error {
            RotationError::Waiting { .. } | RotationError::Step(StepError::Order { .. }) => {
                Self::failed_precondition(text)
            }
            RotationError::Step(StepError::Store(_)) => Self::unavailable(text),
            RotationError::Step(StepError::Authority(_)) => Self::internal(text),
        }
    }
}

#[tonic::async_trait]
impl AuthorityService for AuthorityAdministration {
    async fn rotation_status(
        &self,
        request: Request<RotationStatusRequest>,
    ) -> Result<Response<RotationStatusResponse>, Status> {
        self.administration.operator(&request)?;
        let rotation = self.rotation.clone();
        let status = self
            .administration
            .blocking(move |_| rotation.status())
            .await?;
        Ok(Response::new(status))
    }

    async fn rotate(
        &self,
        request: Request<RotateRequest>,
    ) -> Result<Response<RotationStatusResponse>, Status> {
        let operator = self.administration.operator(&request)?;
        let RotateRequest { step, force } = request.into_inner();
        let step = RotationStep::try_from(step)
            .map_err(|_| Status::invalid_argument(format!("step: {step} is unknown")))?;
        tracing::info!(
            operator = operator.as_str(),
            step = step.as_str_name(),
            force,
            "change of roots asked for"
        );
        let rotation = self.rotation.clone();
        let status = self
            .administration
            .blocking(move |_| -> Result<_, RotationError> {
                rotation.take(step, force)?;
                Ok(rotation.status()?)
            })
            .await?;
        Ok(Response::new(status))
    }
}
