from hypothesis import given
from hypothesis import strategies as st

from health.agent.report import Report, read


@given(
    st.builds(
        Report,
        node=st.text(),
        probe_name=st.text(),
        link=st.booleans(),
        reason=st.text(),
        dns=st.lists(st.text()).map(tuple),
        kill_switch=st.booleans(),
        handshake_age_s=st.none() | st.floats(0, 1e9),
        targets=st.lists(st.text()).map(tuple),
        insights_url=st.text(),
    )
)
def test_a_report_is_one_line_and_read_back_whole(report: Report) -> None:
    line = report.line()
    assert line.count(b"\n") == 1
    assert read(line) == report
