"""stub"""
def render(record):
    return "<p>stub"
