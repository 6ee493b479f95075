"""Every error that the service raises by itself, each with a stable code. Knows no HTTP.

    Exception
    ├── StartError                  the service cannot start as it is set up
    └── ServiceError
        ├── BodyTooLarge · BodyUnusable · MultipartInvalid · BodyTooSlow · TensorInvalid
        │       what was sent
        ├── BudgetSpent · OverBudget
        │       no memory for it
        ├── KeyMissing · KeyUnknown · SessionEnded · TooManyLogins
        ├── RoleInsufficient · ForeignHost · CrossOrigin
        │       who asks
        ├── ModelUnknown · NotReady · NoModel · NotForLabels · InferenceFailed · ClientGone
        │       the inspection
        ├── TooManyStreams
        │       who watches
        ├── ResultUnknown · NothingKept · NothingRecorded
        ├── MaskInvalid · MaskMissing
        │       which pixels are defective
        ├── ModelGone · NoNormalsKept
        │       why a part was rejected
        ├── IdempotencyMismatch · FeedbackContradicts
        ├── Claimed · ReviewerMissing · TooManyClaims
        │       the review
        ├── NothingStaged · NothingPrevious · VersionWaits
        ├── VersionChanged · AuditUnwritable
        ├── DefectsWouldPass
        │   │   a version lets a confirmed defect pass
        │   └── CasesMissing
        │           or cannot be held against one
        ├── NormalsMissing · ReasonMissing
        ├── KindUnknown · KindUncertain
        │       what defects are called
        ├── DatasetUnknown · DatasetInUse · DatasetsFull · StorageFailed · FolderRefused
        │       good parts to train on
        ├── JobUnknown · JobEnded · JobNotResumable · JobsFull · JobExists · JobsElsewhere
        ├── RecipeUnknown · PlaceRefused
        │       trainings and calibrations
        └── PeriodInvalid · ZoneUnknown · ReportBusy
                the shift report

How each is answered stands in `service.http.problems`. The queue's and the threads' own errors are
defined beside what raises them.
"""


class StartError(Exception):
    """The service cannot start as it is set up."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServiceError(Exception):
    """An error of the rim itself; `code` is stable."""

    code = "service_error"


class BodyTooLarge(ServiceError):
    """More bytes than the limit."""

    code = "body_too_large"


class BodyUnusable(ServiceError):
    """The body is not one image in a form this service takes."""

    code = "body_unusable"


class MultipartInvalid(ServiceError):
    """The multipart body is damaged or has no `file`."""

    code = "multipart_invalid"


class ModelUnknown(ServiceError):
    """No model of that name is loaded."""

    code = "model_not_found"


class NotForLabels(ServiceError):
    """Something was asked of a model of labels that only one of anomalies can do."""

    code = "not_for_labels"


class BodyTooSlow(ServiceError):
    """The body did not arrive in time."""

    code = "body_too_slow"


class BudgetSpent(ServiceError):
    """What is in flight leaves no memory for this now; come back in `retry_after_s`."""

    code = "memory_in_use"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverBudget(ServiceError):
    """One request alone would hold more memory than all together may."""

    code = "memory_exceeded"


class TensorInvalid(ServiceError):
    """A tensor of an Open Inference Protocol request is not an image."""

    code = "tensor_invalid"


class InferenceFailed(ServiceError):
    """The model raised while this image was inspected."""

    code = "inference_failed"


class ClientGone(ServiceError):
    """The client left before the answer; `stage` is where its request was."""

    code = "client_gone"

    def __init__(self, stage: str) -> None:
        super().__init__(f"the client left during {stage}")
        self.stage = stage


class AuditUnwritable(ServiceError):
    """A change cannot be written down, so it is not made."""

    code = "audit_unwritable"


class NothingStaged(ServiceError):
    """There is no loaded version to activate."""

    code = "nothing_staged"


class NothingPrevious(ServiceError):
    """There is no version to go back to."""

    code = "nothing_previous"


class VersionWaits(ServiceError):
    """Another version lies where this one would be written."""

    code = "version_waits"


class DefectsWouldPass(ServiceError):
    """A version would let a confirmed defect pass."""

    code = "defects_would_pass"


class CasesMissing(DefectsWouldPass):
    """A version cannot be held against a confirmed defect: what was kept of it is gone."""

    code = "cases_missing"


class VersionChanged(ServiceError):
    """Another version is there than the one that was meant."""

    code = "version_changed"


class NormalsMissing(ServiceError):
    """There is nothing to calibrate on."""

    code = "normals_missing"


class ReasonMissing(ServiceError):
    """Somebody overrules a check and does not say why."""

    code = "reason_missing"


class KeyMissing(ServiceError):
    """The request has no API key."""

    code = "key_missing"


class KeyUnknown(ServiceError):
    """The request's API key is not one of ours."""

    code = "key_unknown"


class SessionEnded(ServiceError):
    """The cookie of the request belongs to no session, or to one that has ended."""

    code = "session_ended"


class TooManyLogins(ServiceError):
    """A client tried too many wrong keys, or too many log in at once; see `retry_after_s`."""

    code = "too_many_logins"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CrossOrigin(ServiceError):
    """Another page than the service's own would change something in its reader's name."""

    code = "cross_origin"


class RoleInsufficient(ServiceError):
    """The request's API key may not do this."""

    code = "role_insufficient"


class ResultUnknown(ServiceError):
    """There is no such result."""

    code = "result_not_found"


class NothingKept(ServiceError):
    """The image and evidence of a result are not there."""

    code = "nothing_kept"


class MaskInvalid(ServiceError):
    """What was sent marks no pixels of this result's picture."""

    code = "mask_invalid"


class MaskMissing(ServiceError):
    """Nobody marked pixels of this result."""

    code = "mask_missing"


class ModelGone(ServiceError):
    """No version with the weights that judged a part is loaded."""

    code = "model_gone"


class NoNormalsKept(ServiceError):
    """No image of a normal part is kept that a part could be compared with."""

    code = "no_normals_kept"


class IdempotencyMismatch(ServiceError):
    """An idempotency key was used for another request."""

    code = "idempotency_mismatch"


class FeedbackContradicts(ServiceError):
    """What was said of a result does not go with its verdict."""

    code = "feedback_contradicts"


class Claimed(ServiceError):
    """Somebody else looks at a result."""

    code = "claimed"


class ReviewerMissing(ServiceError):
    """Whoever claims a result does not say who it is."""

    code = "reviewer_missing"


class TooManyClaims(ServiceError):
    """So many results are claimed that no further one can be; come back in `retry_after_s`."""

    code = "too_many_claims"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ForeignHost(ServiceError):
    """A service without API keys is asked by a name or from a page that is not its own."""

    code = "host_foreign"


class NothingRecorded(ServiceError):
    """The service keeps no results."""

    code = "nothing_recorded"


class PeriodInvalid(ServiceError):
    """What a report is asked of is no period."""

    code = "period_invalid"


class ZoneUnknown(ServiceError):
    """There is no time zone of that name."""

    code = "zone_unknown"


class ReportBusy(ServiceError):
    """So many reports are waiting already that this one has to come later."""

    code = "report_busy"
    retry_after_s = 10.0


class TooManyStreams(ServiceError):
    """As many streams of events are open as may be; come back in `retry_after_s`."""

    code = "too_many_streams"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(ServiceError):
    """No model is ready to answer."""

    code = "not_ready"


class NoModel(NotReady):
    """The service started without a model, and none has come since."""

    code = "no_model"


class DatasetUnknown(ServiceError):
    """There is no such set of good parts."""

    code = "dataset_not_found"


class DatasetInUse(ServiceError):
    """A training reads the set now."""

    code = "dataset_in_use"


class DatasetsFull(ServiceError):
    """All sets together would take more than they may."""

    code = "datasets_full"


class StorageFailed(ServiceError):
    """The disk is full, or cannot be written to; nothing is half written."""

    code = "storage_failed"


class FolderRefused(ServiceError):
    """A folder does not lie where trainings may read."""

    code = "folder_refused"


class JobUnknown(ServiceError):
    """There is no such job."""

    code = "job_not_found"


class JobEnded(ServiceError):
    """The job has ended, or is past the point where it can be stopped."""

    code = "job_ended"


class JobNotResumable(ServiceError):
    """The job is of a kind, or in a state, that nothing goes on from."""

    code = "job_not_resumable"


class JobsFull(ServiceError):
    """As many jobs wait as may."""

    code = "jobs_full"
    retry_after_s = 60.0


class JobExists(ServiceError):
    """A training of that model runs or waits."""

    code = "job_exists"


class JobsElsewhere(ServiceError):
    """Another service runs the jobs of this folder."""

    code = "jobs_elsewhere"


class RecipeUnknown(ServiceError):
    """There is no such recipe."""

    code = "recipe_unknown"


class PlaceRefused(ServiceError):
    """A model cannot be put where models lie."""

    code = "models_unwritable"


class KindUnknown(ServiceError):
    """Nobody ever called a defect by this name."""

    code = "kind_unknown"


class KindUncertain(ServiceError):
    """A kind has too few examples for what is asked of it, or is the same already."""

    code = "kind_uncertain"
