"""Files: trials and data sets to read, results and data sets to write."""

from qspjax.io._issues import FileIssues as FileIssues, Issue as Issue
from qspjax.io._nonmem import NonmemData as NonmemData, read_nonmem as read_nonmem
from qspjax.io._nonmem_write import write_nonmem as write_nonmem
from qspjax.io._outputs import (
    all_failed as all_failed,
    check_destination as check_destination,
    summary as summary,
    version as version,
    write_trial as write_trial,
)
from qspjax.io._trial_file import (
    MOST_PATIENTS as MOST_PATIENTS,
    TrialFile as TrialFile,
    bundled_trial as bundled_trial,
    read_trial as read_trial,
)
from qspjax.io._validate import contents as contents, validate as validate
