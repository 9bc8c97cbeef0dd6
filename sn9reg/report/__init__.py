"""The report: one page that shows whether a registration is right, and where it is not."""

from sn9reg.report.page import Run, check_installed, check_report, write_report
from sn9reg.report.views import Place

__all__ = ["Place", "Run", "check_installed", "check_report", "write_report"]
