"""What there is to see of a trained model and its run, as one page of HTML that needs nothing else."""

from lightning_ae.report.page import Report, check_extra, report_of
from lightning_ae.report.runs import Run, find_run

__all__ = ["Report", "Run", "check_extra", "find_run", "report_of"]
