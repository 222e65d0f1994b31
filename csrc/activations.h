/* SPDX-License-Identifier: MIT
 * activations.h - sigmoid and tanh of a vector, as quotients, so that a cell can join two of them into one division
 * (division is two thirds of their cost: joint ones make an LSTM cell cost 3 of them instead of 5). Part of body.h.
 *
 * Both rest on e^x - 1 = 2^k (p + 1) - 1 with x = k ln2 + r, |r| <= ln2/2, p = r + r^2 q(r); the coefficients of q are
 * minimax fits of (e^r - 1 - r) / r^2, weighted for the error relative to e^r - 1. ln2 is split in two so that
 * k * LN2_HIGH is exact. Adding ROUND leaves k + EXPONENT_BIAS in the low bits of the sum: shifted up, it is 2^k. */

#if FRNN_WIDE
#define EXPONENT_BIAS 1023
#define MANTISSA 52
#define ROUND (0x1.8p52 + EXPONENT_BIAS)
#define LN2_HIGH 0x1.62e42fee00000p-1
#define LN2_LOW 0x1.a39ef35793c76p-33
#define SIGMOID_END 709.0 /* 2^k, of e^-x, is 0 here, and sigmoid(-x) subnormal, which counts as 0 */
#define TANH_END 38.2     /* 1 - e^-x is 1 above */
#else
#define EXPONENT_BIAS 127
#define MANTISSA 23
#define ROUND (0x1.8p23f + EXPONENT_BIAS)
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define SIGMOID_END 88.0f
#define TANH_END 18.1f
#endif

#if FRNN_WIDE
static const real q_coefficients[] = {2.087532664867273762e-9,
                                      2.5109024681483620756e-8,
                                      2.7557402783785293269e-7,
                                      2.7557244253519698595e-6,
                                      0.000024801587172219159292,
                                      0.0001984126988607417229,
                                      0.0013888888888962611549,
                                      0.0083333333333216538575,
                                      0.041666666666666508137,
                                      0.16666666666666676547,
                                      0.5};
#else
static const real q_coefficients[] = {0x1.6bebfap-10f, 0x1.1227b0p-7f, 0x1.555674p-5f, 0x1.5554b0p-3f, 0x1.fffffep-2f};
#endif

typedef struct quotient {
    vec num, den;
} quotient;

INLINE vec magnitude(vec x) { return (vec)((ivec)x & ~(ivec)all((real)-0.0)); }
INLINE vec sign_of(vec x) { return (vec)((ivec)x & (ivec)all((real)-0.0)); }
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

/* p of the above, and 2^k, for e^-x. Horner's rule in r^2, two coefficients at a time: what it costs is latency. */
INLINE vec reduced_expm1(vec x, vec *scale)
{
    vec shifted = fmadd(x, all((real)-1.44269504088896340736), all(ROUND)), k = shifted - all(ROUND);
    *scale = (vec)((ivec)shifted << MANTISSA);
    vec r = fmadd(k, all(-LN2_LOW), fmadd(k, all(-LN2_HIGH), -x)), r2 = r * r;
    vec q = all(q_coefficients[0]);
    UNROLL for (int i = 1; i < (int)(sizeof q_coefficients / sizeof *q_coefficients); i += 2)
        q = fmadd(q, r2, fmadd(all(q_coefficients[i]), r, all(q_coefficients[i + 1])));
    return fmadd(r2, q, r);
}

/* 1 / (1 + e^-x), whose relative error is small in either tail. */
INLINE quotient sigmoid_of(vec x)
{
    vec scale, p = reduced_expm1(min(all(SIGMOID_END), max(all(-SIGMOID_END), x)), &scale);
    return (quotient){all(1), fmadd(scale, p, scale) + all(1)};
}

/* |tanh x| = d / (2 - d) with d = 1 - e^(-2|x|); 2 - d comes from p as d does, or d's rounding would count twice. */
INLINE quotient tanh_of(vec x)
{
    vec y = magnitude(x), scale, p = reduced_expm1(min(all(TANH_END), y + y), &scale);
    vec d = fmadd(-scale, p, all(1) - scale);
    return (quotient){(vec)((ivec)d | (ivec)sign_of(x)), fmadd(scale, p, scale + all(1))};
}

INLINE vec sigmoid_vec(vec x)
{
    quotient s = sigmoid_of(x);
    return s.num / s.den;
}

INLINE vec tanh_vec(vec x)
{
    quotient t = tanh_of(x);
    return t.num / t.den;
}

#undef EXPONENT_BIAS
#undef MANTISSA
#undef ROUND
#undef LN2_HIGH
#undef LN2_LOW
#undef SIGMOID_END
#undef TANH_END
